//! Promises of the walk: exactly what the decoder crate encodes passes, and no claim beyond the bytes does.

use kafka_protocol::messages::ApiKey;
use proptest::prelude::*;

use super::*;
use crate::{layout_table, newer, versions};

/// Writes random valid bodies from a layout: the reverse of the walk, with its own idea of compact lengths.
struct Writer<'a> {
    out: Vec<u8>,
    version: i16,
    chance: &'a mut dyn FnMut(u32) -> u32,
}

impl Writer<'_> {
    fn number(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn length(&mut self, length: Option<usize>, compact: bool, two: bool) {
        let length = length.map_or(-1, |length| i32::try_from(length).unwrap());
        if compact {
            self.number(u32::try_from(length + 1).unwrap());
        } else if two {
            self.out.extend(i16::try_from(length).unwrap().to_be_bytes());
        } else {
            self.out.extend(length.to_be_bytes());
        }
    }

    fn structure(&mut self, layout: &'static Layout) {
        let compact = self.version >= layout.flexible_since;
        for field in layout.fields {
            if (field.since..=field.until).contains(&self.version) {
                self.value(&field.shape, compact);
            }
        }
        if compact {
            self.tags(layout.tagged);
        }
    }

    fn value(&mut self, shape: &'static Shape, compact: bool) {
        match shape {
            Shape::Fixed(size) => {
                for _ in 0..*size {
                    let byte = (self.chance)(2) as u8;
                    self.out.push(byte);
                }
            }
            Shape::Text { nullable } | Shape::Blob { nullable } => {
                let length = if *nullable && (self.chance)(3) == 0 { None } else { Some((self.chance)(200) as usize) };
                self.length(length, compact, matches!(shape, Shape::Text { .. }));
                self.out.extend(std::iter::repeat_n(b'x', length.unwrap_or(0)));
            }
            Shape::Array { nullable, element } => {
                let count = if *nullable && (self.chance)(3) == 0 { None } else { Some((self.chance)(4) as usize) };
                self.length(count, compact, false);
                for _ in 0..count.unwrap_or(0) {
                    self.value(element, compact);
                }
            }
            Shape::Struct(layout) => self.structure(layout),
            Shape::Option(layout) => {
                if (self.chance)(2) == 0 {
                    self.out.push(0xff);
                } else {
                    self.out.push(1);
                    self.structure(layout);
                }
            }
        }
    }

    fn tags(&mut self, known: &'static [Tagged]) {
        let mut fields = Vec::new();
        for field in known {
            if (field.since..=field.until).contains(&self.version) && (self.chance)(2) == 0 {
                let before = self.out.len();
                self.value(&field.shape, true);
                fields.push((field.tag, self.out.split_off(before)));
            }
        }
        if (self.chance)(3) == 0 {
            fields.push((100, vec![1, 2, 3]));
        }
        self.number(fields.len() as u32);
        for (tag, content) in fields {
            self.number(tag);
            self.number(content.len() as u32);
            self.out.extend(content);
        }
    }
}

fn random_body(key: i16, version: i16, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut chance = |below: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 33).unwrap() % below
    };
    let mut writer = Writer { out: Vec::new(), version, chance: &mut chance };
    writer.structure(layout_table::of_request(key).unwrap());
    writer.out
}

fn served() -> impl Iterator<Item = (i16, i16)> {
    versions::advertised()
        .iter()
        .flat_map(|range| (range.min..=range.max).map(|version| (range.key, version)))
        .filter(|(key, version)| versions::is_served(*key, *version))
}

fn walked(key: i16, version: i16, bytes: &[u8]) -> Result<Vec<Claim>, WalkError> {
    let mut walk = Walk::new(bytes, version);
    walk.structure(layout_table::of_request(key).unwrap())?;
    walk.end()?;
    Ok(walk.claims)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The decoder reads what the walk passed, to the last byte, and its own encoding of it is walked to the end.
    #[test]
    fn random_valid_requests_of_every_advertised_version_are_consumed_exactly(seed: u64) {
        for (key, version) in served() {
            let bytes = random_body(key, version, seed);
            prop_assert!(walked(key, version, &bytes).is_ok(), "{} v{}", key, version);
            let api = ApiKey::try_from(key).unwrap();
            let mut rest = bytes::Bytes::from(bytes);
            let request = newer::decode(api, version, &mut rest);
            prop_assert!(request.is_some() && rest.is_empty(), "{:?} v{}: {:?}", api, version, request);
            let mut again = bytes::BytesMut::new();
            // Some defaults cannot be encoded (a field another version ignores); all that can must be walked.
            if request.unwrap().encode(&mut again, version).is_ok() {
                prop_assert_eq!(walked(key, version, &again).map(|_| ()), Ok(()), "{:?} v{}", api, version);
            }
        }
    }

    /// Every count and length in turn claims more than follows, up to the largest number there is.
    #[test]
    fn hostile_claims_at_every_position_of_every_request_are_refused(seed: u64) {
        for (key, version) in served() {
            let bytes = random_body(key, version, seed);
            for claim in walked(key, version, &bytes).unwrap() {
                for hostile in [i32::MAX, 1 << 30, 1 << 20, -2, i32::MIN] {
                    let claimed = if claim.compact {
                        // One more than the claim: 0 would be null, and all above 0x8000_0000 is impossible.
                        let mut number = Vec::new();
                        let mut value = hostile.cast_unsigned();
                        while value >= 0x80 {
                            number.push((value as u8) | 0x80);
                            value >>= 7;
                        }
                        number.push(value as u8);
                        number
                    } else if claim.width == 2 {
                        (if hostile > 0 { i16::MAX } else { -2 }).to_be_bytes().to_vec()
                    } else {
                        hostile.to_be_bytes().to_vec()
                    };
                    let hostile_body = [&bytes[..claim.at], &claimed, &bytes[claim.at + claim.width..]].concat();
                    let answer = walked(key, version, &hostile_body);
                    prop_assert!(answer.is_err(), "{} v{} at {} (array: {})", key, version, claim.at, claim.array);
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_the_walk_or_the_decoder_behind_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        for (key, version) in served() {
            let frame = [
                &key.to_be_bytes()[..], &version.to_be_bytes(), &[0, 0, 0, 0, 0xff, 0xff], &bytes,
            ].concat();
            let _ = crate::request::parse(frame.into());
        }
    }
}

#[test]
fn every_cut_of_every_request_is_refused() {
    for (key, version) in served() {
        let bytes = random_body(key, version, 11);
        for length in 0..bytes.len() {
            assert!(walked(key, version, &bytes[..length]).is_err(), "{key} v{version} cut to {length}");
        }
    }
}

#[test]
fn more_elements_than_any_client_sends_are_refused() {
    // Metadata v4 with empty topic names: two bytes each, all there.
    let count = ELEMENTS_MAX + 1;
    let mut body = i32::try_from(count).unwrap().to_be_bytes().to_vec();
    body.resize(4 + 2 * count + 1, 0);
    assert_eq!(walked(3, 4, &body).unwrap_err(), WalkError::Elements { max: ELEMENTS_MAX });
}

#[test]
fn null_is_refused_where_the_protocol_has_none() {
    // DescribeGroups v0: an array of names that may not be null.
    assert_eq!(walked(15, 0, &(-1_i32).to_be_bytes()).unwrap_err(), WalkError::Null { at: 0 });
}

#[test]
fn equal_and_falling_tags_are_refused() {
    for tags in [[2, 9, 0, 9, 0], [2, 9, 0, 8, 0]] {
        assert_eq!(header_tags(&tags), Err(WalkError::Tag { at: 3 }));
    }
    assert_eq!(header_tags(&[2, 8, 0, 9, 1, 7]), Ok(6));
}

#[test]
fn known_tag_with_another_size_than_its_value_is_refused() {
    // Fetch v12: empty request, then the cluster id (tag 0) as a compact string in a field one byte too long.
    let mut body = vec![0; 4 + 4 + 4 + 4 + 1 + 4 + 4];
    body.extend([1, 1, 1]);
    body.extend([1, 0, 3, 2, b'a', b'b']);
    assert_eq!(walked(1, 12, &body).unwrap_err(), WalkError::Tag { at: body.len() - 5 });
}

#[test]
fn number_of_more_than_32_bits_is_refused() {
    assert_eq!(header_tags(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(WalkError::Number { at: 0 }));
    assert_eq!(header_tags(&[0xff, 0xff, 0xff, 0xff, 0xff, 0]), Err(WalkError::Number { at: 0 }));
}
