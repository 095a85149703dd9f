//! The topics of a consumer's subscription (`ConsumerProtocolSubscription`, all versions begin alike), and nothing more.
//!
//! In: a member's metadata, bytes of a client. Out: topic names, or `None` when the bytes are not a subscription.

use bytes::{Buf, Bytes};

/// The subscribed topics.
pub fn topics(metadata: &Bytes) -> Option<Vec<String>> {
    let mut left = metadata.clone();
    let version = left.try_get_i16().ok()?;
    if version < 0 {
        return None;
    }
    let count = usize::try_from(left.try_get_i32().ok()?).ok()?;
    // A name takes at least its two bytes of length: a larger count is a lie and reserves nothing.
    if count > left.remaining() / 2 {
        return None;
    }
    (0..count).map(|_| topic(&mut left)).collect()
}

fn topic(left: &mut Bytes) -> Option<String> {
    let length = usize::try_from(left.try_get_i16().ok()?).ok()?;
    if length > left.remaining() {
        return None;
    }
    std::str::from_utf8(&left.split_to(length)).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_a_subscription_are_read() {
        let bytes = Bytes::from_static(b"\x00\x03\x00\x00\x00\x02\x00\x01a\x00\x02bc\xff\xff\xff\xff");
        assert_eq!(topics(&bytes), Some(vec!["a".to_owned(), "bc".to_owned()]));
    }

    #[test]
    fn lying_counts_and_lengths_are_no_subscription() {
        for bytes in [&b""[..], b"\x00\x00", b"\x00\x00\x7f\xff\xff\xff\x00\x01a", b"\x00\x00\xff\xff\xff\xff", b"\x00\x00\x00\x00\x00\x01\x00\x09a"] {
            assert_eq!(topics(&Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
    }
}
