//! The line format, and the chain that lines form. The format is told byte for byte in the head of the crate.
//!
//! In: bytes of a line, without its LF. Out: a checked [`Line`], or the [`Breach`] found first.
//!
//! Invariant: what [`Chain::follow`] accepts, the writer wrote in this order in this log, up to the strength of the
//! newest signature; there is no byte of a line that may differ.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schloss_crypto::digest::sha256;
use schloss_crypto::signing::{SigningKey, VerifyingKey};
use serde::Deserialize;

/// A SHA-256.
pub type Hash = [u8; 32];

/// Longest line taken: a checkpoint that names 100,000 heads fits.
pub const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

const HASH_MEMBER: &str = ",\"hash\":\"";
const SIGNATURE_MEMBER: &str = ",\"signature\":\"";
const END: &str = "\"}";
const SIGNATURE_TEXT_BYTES: usize = 88;
const SIGNED: &[u8] = b"schloss audit checkpoint v1\n";
const BODY_BINDING: &str = "schloss audit body v1\n";

/// What is wrong at a place of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// No line of this format.
    #[error("not a line of an audit log")]
    Malformed,
    /// Its bytes are not those that were hashed.
    #[error("altered: the bytes do not match the line's hash")]
    Altered,
    /// Out of order.
    #[error("seq {found} stands where seq {expected} must: lines were deleted, inserted, repeated or swapped")]
    Order {
        /// What must stand here.
        expected: u64,
        /// What does.
        found: u64,
    },
    /// The hash of the line before is another.
    #[error("does not continue the line before it: this line or that one was replaced")]
    Replaced,
    /// A line of another log.
    #[error("belongs to the log `{found}`: copied or renamed")]
    OtherLog {
        /// Where it comes from.
        found: String,
    },
    /// A log of another installation.
    #[error("belongs to another cluster")]
    OtherCluster,
    /// Not signed by this key.
    #[error("the signature is not of this public key: the checkpoint, or something after the one before it, was rewritten")]
    Signature,
    /// More or fewer events than the checkpoint says.
    #[error("the checkpoint counts {stated} events where {present} stand")]
    Count {
        /// In the checkpoint.
        stated: u64,
        /// In the log.
        present: u64,
    },
    /// A `begin` where none may stand, or none where one must.
    #[error("a log begins at its first line and nowhere else")]
    Beginning,
    /// A later file without its checkpoint.
    #[error("the file does not begin with a checkpoint")]
    NoCheckpoint,
    /// The last line is not whole.
    #[error("the last line is cut short: a crash, which the next start mends, or a cut")]
    Torn,
    /// A number is left out.
    #[error("the file is missing")]
    FileMissing,
    /// A checkpoint saw more of this log than there is.
    #[error("cut: the log ends here, but a signed checkpoint saw its seq {seq}")]
    Cut {
        /// The newest line a checkpoint saw.
        seq: u64,
    },
    /// A checkpoint saw another line here.
    #[error("forked: a signed checkpoint saw another line with this seq")]
    Forked,
    /// Nothing of ours.
    #[error("nothing of an audit log belongs here")]
    Stranger,
    /// Not readable as a file.
    #[error("cannot be read: {kind}")]
    Unreadable {
        /// Why.
        kind: std::io::ErrorKind,
    },
}

/// Where a line stands.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its number in the log.
    pub seq: u64,
    /// When, milliseconds since 1970.
    pub time_ms: i64,
    /// The log's name.
    pub log: &'a str,
    /// The hash of the line before.
    pub prev: &'a Hash,
}

/// Newest line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

/// Newest lines by log.
pub type Heads = BTreeMap<String, Head>;

/// A line ready to be written, with its LF.
#[derive(Debug)]
pub struct Written {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Its hash.
    pub hash: Hash,
}

impl Place<'_> {
    fn opening(&self, kind: &str) -> String {
        format!(
            "{{\"v\":1,\"seq\":{},\"time\":{},\"log\":\"{}\",\"prev\":\"{}\",\"kind\":\"{kind}\"",
            self.seq,
            self.time_ms,
            self.log,
            hex(self.prev)
        )
    }

    /// The first line of a log.
    pub fn begin(&self, cluster: &str) -> Written {
        closed(format!("{},\"cluster\":\"{cluster}\"", self.opening("begin")))
    }

    /// An event with its sealed body.
    pub fn event(&self, sealed: &[u8]) -> Written {
        closed(format!("{},\"body\":\"{}\"", self.opening("event"), BASE64.encode(sealed)))
    }

    /// A signed checkpoint.
    pub fn checkpoint(&self, events: u64, heads: &Heads, key: &SigningKey) -> Written {
        let mut text = format!("{},\"events\":{events},\"heads\":{{", self.opening("checkpoint"));
        for (number, (log, head)) in heads.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            // Writing into a String cannot fail.
            let _ = write!(text, "{comma}\"{log}\":[{},\"{}\"]", head.seq, hex(&head.hash));
        }
        text.push('}');
        let signature = key.sign(&[SIGNED, text.as_bytes()].concat());
        text.push_str(SIGNATURE_MEMBER);
        text.push_str(&BASE64.encode(signature));
        text.push('"');
        closed(text)
    }
}

fn closed(mut text: String) -> Written {
    let hash = sha256(text.as_bytes());
    text.push_str(HASH_MEMBER);
    text.push_str(&hex(&hash));
    text.push_str(END);
    text.push('\n');
    Written { bytes: text.into_bytes(), hash }
}

/// What an event's sealed body is bound to, so that no body opens at another place.
pub fn body_binding(cluster: &str, log: &str, seq: u64) -> Vec<u8> {
    format!("{BODY_BINDING}{cluster}\n{log}\n{seq}").into_bytes()
}

/// A line whose hash is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number.
    pub seq: u64,
    /// When, milliseconds since 1970.
    pub time_ms: i64,
    /// The log it says it is of.
    pub log: String,
    /// The hash of the line before.
    pub prev: Hash,
    /// Its own hash.
    pub hash: Hash,
    /// The rest.
    pub kind: Kind,
}

/// What a line holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first line.
    Begin {
        /// The installation.
        cluster: String,
    },
    /// An event.
    Event {
        /// The sealed body.
        sealed: Vec<u8>,
    },
    /// A checkpoint.
    Checkpoint {
        /// Events before it.
        events: u64,
        /// Other logs.
        heads: Heads,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    v: u32,
    seq: u64,
    time: i64,
    log: String,
    prev: String,
    kind: String,
    cluster: Option<String>,
    body: Option<String>,
    events: Option<u64>,
    heads: Option<BTreeMap<String, (u64, String)>>,
    signature: Option<String>,
    /// Compared before, as bytes.
    #[serde(rename = "hash")]
    _hash: String,
}

impl Line {
    /// Parses a line (without LF) and checks its own hash.
    ///
    /// # Errors
    /// [`Breach::Malformed`], [`Breach::Altered`].
    pub fn parse(raw: &[u8]) -> Result<Self, Breach> {
        let (hashed, stated) = split_hash(raw).ok_or(Breach::Malformed)?;
        let hash = sha256(hashed);
        if stated != hex(&hash).as_bytes() {
            return Err(Breach::Altered);
        }
        let members: Members = serde_json::from_slice(raw).map_err(|_| Breach::Malformed)?;
        Self::checked(members, hash).ok_or(Breach::Malformed)
    }

    fn checked(members: Members, hash: Hash) -> Option<Self> {
        let Members { v: 1, seq, time, log, prev, kind, cluster, body, events, heads, signature, _hash: _ } = members else {
            return None;
        };
        let kind = match (kind.as_str(), cluster, body, events, heads, signature) {
            ("begin", Some(cluster), None, None, None, None) => Kind::Begin { cluster },
            ("event", None, Some(body), None, None, None) => Kind::Event { sealed: BASE64.decode(body).ok()? },
            ("checkpoint", None, None, Some(events), Some(heads), Some(_)) => {
                let head = |(log, (seq, hash)): (String, (u64, String))| Some((log, Head { seq, hash: unhex(&hash)? }));
                Kind::Checkpoint { events, heads: heads.into_iter().map(head).collect::<Option<_>>()? }
            }
            _ => return None,
        };
        Some(Self { seq, time_ms: time, log, prev: unhex(&prev)?, hash, kind })
    }
}

/// True when the checkpoint line `raw` (without LF) is signed by `key`.
#[must_use]
pub fn signed_by(raw: &[u8], key: &VerifyingKey) -> bool {
    let parts = || {
        let (hashed, _) = split_hash(raw)?;
        let text = hashed.strip_suffix(b"\"")?;
        let (rest, signature) = text.split_at_checked(text.len().checked_sub(SIGNATURE_TEXT_BYTES)?)?;
        Some((rest.strip_suffix(SIGNATURE_MEMBER.as_bytes())?, BASE64.decode(signature).ok()?))
    };
    parts().is_some_and(|(signed, signature)| key.verify(&[SIGNED, signed].concat(), &signature))
}

/// The bytes that are hashed, and the hash's text.
fn split_hash(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = raw.strip_suffix(END.as_bytes())?;
    let (rest, hash) = text.split_at_checked(text.len().checked_sub(64)?)?;
    Some((rest.strip_suffix(HASH_MEMBER.as_bytes())?, hash))
}

/// The rules between the lines of one log.
#[derive(Clone, Debug)]
pub struct Chain {
    log: String,
    cluster: Option<String>,
    /// What must come next.
    pub next_seq: u64,
    /// The hash it must name.
    pub prev: Hash,
    /// Events so far.
    pub events: u64,
}

impl Chain {
    /// Before the first line of a log. `cluster`: the installation, where it is known.
    #[must_use]
    pub fn new(log: &str, cluster: Option<&str>) -> Self {
        Self { log: log.to_owned(), cluster: cluster.map(str::to_owned), next_seq: 0, prev: [0; 32], events: 0 }
    }

    /// The installation, once the first line was seen.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// Takes the place of `line`, the checkpoint that begins a later file, on trust: for a start that reads the last file only.
    #[must_use]
    pub fn before(log: &str, cluster: Option<&str>, line: &Line) -> Option<Self> {
        let Kind::Checkpoint { events, .. } = &line.kind else { return None };
        let mut chain = Self::new(log, cluster);
        (chain.next_seq, chain.prev, chain.events) = (line.seq, line.prev, *events);
        Some(chain)
    }

    /// Takes the next line (without LF).
    ///
    /// # Errors
    /// The first [`Breach`]; the chain then stays where it was.
    pub fn follow(&mut self, raw: &[u8]) -> Result<Line, Breach> {
        let line = Line::parse(raw)?;
        if line.log != self.log {
            return Err(Breach::OtherLog { found: line.log });
        }
        if line.seq != self.next_seq {
            return Err(Breach::Order { expected: self.next_seq, found: line.seq });
        }
        if line.prev != self.prev {
            return Err(Breach::Replaced);
        }
        if (line.seq == 0) != matches!(line.kind, Kind::Begin { .. }) {
            return Err(Breach::Beginning);
        }
        match &line.kind {
            Kind::Begin { cluster } => {
                if self.cluster.as_ref().is_some_and(|known| known != cluster) {
                    return Err(Breach::OtherCluster);
                }
                self.cluster = Some(cluster.clone());
            }
            Kind::Event { .. } => self.events += 1,
            Kind::Checkpoint { events, .. } if *events != self.events => {
                return Err(Breach::Count { stated: *events, present: self.events });
            }
            Kind::Checkpoint { .. } => {}
        }
        self.next_seq += 1;
        self.prev = line.hash;
        Ok(line)
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The inverse of [`hex`] for a hash; lower-case only, so that a value has one form.
fn unhex(text: &str) -> Option<Hash> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(&SigningKey::generate_pkcs8()).unwrap()
    }

    fn place(seq: u64, prev: &Hash) -> Place<'_> {
        Place { seq, time_ms: 1_700_000_000_000, log: "cluster", prev }
    }

    fn without_lf(written: &Written) -> &[u8] {
        written.bytes.strip_suffix(b"\n").unwrap()
    }

    #[test]
    fn first_line_has_the_documented_bytes() {
        let written = place(0, &[0; 32]).begin("67e55044-10b1-426f-9247-bb680e5fe0c8");
        let hashed = "{\"v\":1,\"seq\":0,\"time\":1700000000000,\"log\":\"cluster\",\"prev\":\"0000000000000000000000000000000000000000000000000000000000000000\",\"kind\":\"begin\",\"cluster\":\"67e55044-10b1-426f-9247-bb680e5fe0c8\"";
        let whole = format!("{hashed},\"hash\":\"{}\"}}\n", hex(&sha256(hashed.as_bytes())));
        assert_eq!(String::from_utf8(written.bytes).unwrap(), whole);
    }

    #[test]
    fn written_lines_form_a_chain() {
        let (key, mut chain) = (key(), Chain::new("cluster", None));
        let begin = place(0, &[0; 32]).begin("u");
        let event = place(1, &begin.hash).event(b"sealed");
        let heads = Heads::from([("000000000001".to_owned(), Head { seq: 4, hash: [7; 32] })]);
        let checkpoint = place(2, &event.hash).checkpoint(1, &heads, &key);
        for written in [&begin, &event, &checkpoint] {
            chain.follow(without_lf(written)).unwrap();
        }
        assert_eq!((chain.next_seq, chain.events, chain.cluster()), (3, 1, Some("u")));
        assert_eq!(Line::parse(without_lf(&checkpoint)).unwrap().kind, Kind::Checkpoint { events: 1, heads });
        assert!(signed_by(without_lf(&checkpoint), &key.verifying_key()));
        assert!(!signed_by(without_lf(&checkpoint), &self::key().verifying_key()));
        assert!(!signed_by(without_lf(&event), &key.verifying_key()));
    }

    #[test]
    fn every_flipped_bit_of_a_line_is_refused() {
        let (key, prev) = (key(), [3; 32]);
        for written in [place(0, &[0; 32]).begin("u"), place(4, &prev).event(b"sealed"), place(4, &prev).checkpoint(9, &Heads::new(), &key)] {
            let raw = without_lf(&written);
            for bit in 0..raw.len() * 8 {
                let mut bad = raw.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Line::parse(&bad).is_err(), "bit {bit}");
            }
            for cut in 0..raw.len() {
                assert!(Line::parse(&raw[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn line_out_of_its_place_is_named() {
        let begin = place(0, &[0; 32]).begin("u");
        let mut chain = Chain::new("cluster", Some("u"));
        chain.follow(without_lf(&begin)).unwrap();
        let refused = |written: &Written, chain: &Chain| chain.clone().follow(without_lf(written)).unwrap_err();
        assert_eq!(refused(&place(2, &begin.hash).event(b""), &chain), Breach::Order { expected: 1, found: 2 });
        assert_eq!(refused(&begin, &chain), Breach::Order { expected: 1, found: 0 });
        assert_eq!(refused(&place(1, &[9; 32]).event(b""), &chain), Breach::Replaced);
        assert_eq!(refused(&place(1, &begin.hash).begin("u"), &chain), Breach::Beginning);
        assert_eq!(refused(&place(1, &begin.hash).checkpoint(1, &Heads::new(), &key()), &chain), Breach::Count { stated: 1, present: 0 });
        let other = Place { log: "000000000001", ..place(1, &begin.hash) }.event(b"");
        assert_eq!(refused(&other, &chain), Breach::OtherLog { found: "000000000001".to_owned() });
        assert_eq!(refused(&begin, &Chain::new("cluster", Some("other"))), Breach::OtherCluster);
    }
}
