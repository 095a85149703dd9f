//! Incremental fetch sessions (KIP-227).
//!
//! A session belongs to its connection: its id means nothing elsewhere, so no client can name another's, and the
//! memory it holds goes with the connection. A client that comes back on a new connection gets
//! FETCH_SESSION_ID_NOT_FOUND and opens a new one, as KIP-227 asks.

use std::collections::HashMap;

use schloss_core::ErrorCode;

/// Partitions one session may remember; a larger fetch is served without a session.
pub const PARTITIONS_MAX: usize = 10_000;

/// How a request names a partition: by topic id (13+) or name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// All zero below version 13.
    pub topic_id: [u8; 16],
    /// Empty from version 13.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
}

/// What a client wants of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Next offset.
    pub offset: i64,
    /// Most bytes.
    pub bytes_max: i32,
    /// The leader epoch the client knows, -1 for none.
    pub current_leader_epoch: i32,
    /// The epoch of the last record the client has, -1 for none (KIP-595).
    pub last_fetched_epoch: i32,
}

/// What a client was last told of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    high_watermark: i64,
    log_start: i64,
    error: i16,
}

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    told: Option<Told>,
    order: u64,
}

/// One incremental fetch session.
#[derive(Debug)]
pub struct FetchSession {
    id: i32,
    next_epoch: i32,
    by_ids: bool,
    entries: HashMap<Key, Entry>,
    next_order: u64,
}

/// What this request fetches and how it is answered.
#[derive(Debug)]
pub struct Plan {
    /// Partitions in the order to serve.
    pub partitions: Vec<(Key, Wanted)>,
    /// Id to answer with; 0 for none.
    pub session_id: i32,
    /// Answer only what changed.
    pub incremental: bool,
}

/// Applies a request to the connection's session.
///
/// `fresh_id` is a random positive number used when a session is opened.
///
/// # Errors
/// FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH, FETCH_SESSION_TOPIC_ID_ERROR as KIP-227 and KIP-516 say.
pub fn plan(
    session: &mut Option<FetchSession>,
    (session_id, session_epoch): (i32, i32),
    by_ids: bool,
    asked: Vec<(Key, Wanted)>,
    forgotten: &[Key],
    fresh_id: i32,
) -> Result<Plan, ErrorCode> {
    match session_epoch {
        // A full fetch outside any session; a session named with it is closed.
        -1 => {
            if session.as_ref().is_some_and(|open| open.id == session_id) {
                *session = None;
            }
            Ok(Plan { partitions: asked, session_id: 0, incremental: false })
        }
        // A full fetch that opens a session; the old one of this connection goes.
        0 => {
            if asked.is_empty() || asked.len() > PARTITIONS_MAX {
                *session = None;
                return Ok(Plan { partitions: asked, session_id: 0, incremental: false });
            }
            let mut opened =
                FetchSession { id: fresh_id, next_epoch: 1, by_ids, entries: HashMap::new(), next_order: 0 };
            for (key, wanted) in &asked {
                opened.put(key.clone(), *wanted);
            }
            let plan = Plan { partitions: asked, session_id: opened.id, incremental: false };
            *session = Some(opened);
            Ok(plan)
        }
        epoch => {
            let open =
                session.as_mut().filter(|open| open.id == session_id).ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
            if epoch != open.next_epoch {
                return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
            }
            if by_ids != open.by_ids {
                return Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
            }
            open.next_epoch = if epoch == i32::MAX { 1 } else { epoch.saturating_add(1) };
            for key in forgotten {
                open.entries.remove(key);
            }
            for (key, wanted) in asked {
                if open.entries.len() >= PARTITIONS_MAX && !open.entries.contains_key(&key) {
                    return Err(ErrorCode::INVALID_REQUEST);
                }
                open.put(key, wanted);
            }
            let mut partitions: Vec<_> =
                open.entries.iter().map(|(key, entry)| (entry.order, key.clone(), entry.wanted)).collect();
            partitions.sort_unstable_by_key(|(order, ..)| *order);
            let partitions = partitions.into_iter().map(|(_, key, wanted)| (key, wanted)).collect();
            Ok(Plan { partitions, session_id: open.id, incremental: true })
        }
    }
}

impl FetchSession {
    fn put(&mut self, key: Key, wanted: Wanted) {
        let order = self.next_order;
        self.next_order = order.saturating_add(1);
        self.entries.entry(key).and_modify(|entry| entry.wanted = wanted).or_insert(Entry {
            wanted,
            told: None,
            order,
        });
    }

    /// True when the client must be told about the partition; remembers what it is told. A partition that had
    /// records goes to the back of the line, so that all get their turn.
    pub fn tell(&mut self, key: &Key, has_records: bool, high_watermark: i64, log_start: i64, error: i16) -> bool {
        let order = self.next_order;
        let Some(entry) = self.entries.get_mut(key) else { return true };
        let now = Told { high_watermark, log_start, error };
        let changed = has_records || error != 0 || entry.told != Some(now);
        // An error is told again each time: the client acts on it each time.
        entry.told = Some(now);
        if has_records {
            entry.order = order;
            self.next_order = order.saturating_add(1);
        }
        changed
    }

    /// This session's id.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> Key {
        Key { topic_id: [0; 16], topic: "t".to_owned(), partition }
    }

    fn wanted(offset: i64) -> Wanted {
        Wanted { offset, bytes_max: 1024, current_leader_epoch: -1, last_fetched_epoch: -1 }
    }

    fn open() -> Option<FetchSession> {
        let mut session = None;
        plan(&mut session, (0, 0), false, vec![(key(0), wanted(5)), (key(1), wanted(0))], &[], 7).unwrap();
        session
    }

    #[test]
    fn incremental_fetch_remembers_partitions_not_named_again() {
        let mut session = open();
        let next = plan(&mut session, (7, 1), false, vec![(key(0), wanted(9))], &[], 8).unwrap();
        assert!(next.incremental);
        assert_eq!(next.partitions, vec![(key(0), wanted(9)), (key(1), wanted(0))]);
    }

    #[test]
    fn forgotten_partition_is_served_no_more() {
        let mut session = open();
        let next = plan(&mut session, (7, 1), false, vec![], &[key(0)], 8).unwrap();
        assert_eq!(next.partitions, vec![(key(1), wanted(0))]);
    }

    #[test]
    fn wrong_epoch_and_foreign_id_are_refused() {
        let mut session = open();
        assert_eq!(
            plan(&mut session, (7, 2), false, vec![], &[], 8).unwrap_err(),
            ErrorCode::INVALID_FETCH_SESSION_EPOCH
        );
        assert_eq!(
            plan(&mut session, (6, 1), false, vec![], &[], 8).unwrap_err(),
            ErrorCode::FETCH_SESSION_ID_NOT_FOUND
        );
        assert_eq!(
            plan(&mut session, (7, 1), true, vec![], &[], 8).unwrap_err(),
            ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR
        );
    }

    #[test]
    fn unchanged_partition_is_left_out_of_an_incremental_answer() {
        let mut session = open().unwrap();
        assert!(session.tell(&key(0), false, 5, 0, 0));
        assert!(!session.tell(&key(0), false, 5, 0, 0));
        assert!(session.tell(&key(0), false, 6, 0, 0));
        assert!(session.tell(&key(0), true, 6, 0, 0));
        assert!(session.tell(&key(0), false, 6, 0, 29));
        assert!(session.tell(&key(0), false, 6, 0, 29));
    }
}
