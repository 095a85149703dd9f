//! Signatures seen, for as long as they could be used again.
//!
//! In: a verified signature, until when it is good, and where it came from. Out: whether it may be used there.
//!
//! A Signature Version 4 has a resolution of one second and no nonce: an honest client that opens two connections in one
//! second shows the same signature twice. So a signature belongs to the address that showed it first; shown from
//! another address it is a replay. In single-use mode the second use is a replay wherever it comes from.
//!
//! Invariants
//! - Only verified signatures get in, so that strangers cannot fill the cache.
//! - The cache is bounded. Full of signatures that are still good, it refuses: forgetting one would allow its replay.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// Whether a signature may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Not seen before, or seen from the same address.
    Admitted,
    /// Seen before.
    Replayed,
    /// No room to remember it.
    Full,
}

/// How often one address may show a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uses {
    /// Once at all.
    Once,
    /// Again and again from the address that showed it first.
    OneAddress,
}

/// The signatures of one tenant.
#[derive(Debug)]
pub struct ReplayCache {
    seen: HashMap<[u8; 32], IpAddr>,
    by_end: BTreeSet<(i64, [u8; 32])>,
    max: usize,
}

impl ReplayCache {
    /// An empty cache of at most `max` signatures.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { seen: HashMap::new(), by_end: BTreeSet::new(), max }
    }

    /// Asks for one use of a verified signature that is good until `until_ms`.
    pub fn admit(&mut self, signature: [u8; 32], until_ms: i64, address: IpAddr, uses: Uses, now_ms: i64) -> Admission {
        while let Some(&(end, old)) = self.by_end.first()
            && end < now_ms
        {
            self.by_end.remove(&(end, old));
            self.seen.remove(&old);
        }
        match self.seen.get(&signature) {
            Some(first) if uses == Uses::OneAddress && *first == address => Admission::Admitted,
            Some(_) => Admission::Replayed,
            None if self.seen.len() >= self.max => Admission::Full,
            None => {
                self.seen.insert(signature, address);
                self.by_end.insert((until_ms, signature));
                Admission::Admitted
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn signature_shown_from_a_second_address_is_a_replay() {
        let mut cache = ReplayCache::new(10);
        assert_eq!(cache.admit([1; 32], 100, HERE, Uses::OneAddress, 0), Admission::Admitted);
        assert_eq!(cache.admit([1; 32], 100, HERE, Uses::OneAddress, 1), Admission::Admitted);
        assert_eq!(cache.admit([1; 32], 100, THERE, Uses::OneAddress, 2), Admission::Replayed);
    }

    #[test]
    fn single_use_refuses_the_second_use_from_the_same_address() {
        let mut cache = ReplayCache::new(10);
        assert_eq!(cache.admit([1; 32], 100, HERE, Uses::Once, 0), Admission::Admitted);
        assert_eq!(cache.admit([1; 32], 100, HERE, Uses::Once, 1), Admission::Replayed);
    }

    #[test]
    fn full_cache_refuses_instead_of_forgetting_and_has_room_when_signatures_end() {
        let mut cache = ReplayCache::new(1);
        assert_eq!(cache.admit([1; 32], 100, HERE, Uses::OneAddress, 0), Admission::Admitted);
        assert_eq!(cache.admit([2; 32], 200, HERE, Uses::OneAddress, 100), Admission::Full);
        assert_eq!(cache.admit([1; 32], 100, THERE, Uses::OneAddress, 100), Admission::Replayed);
        assert_eq!(cache.admit([2; 32], 200, HERE, Uses::OneAddress, 101), Admission::Admitted);
    }
}
