//! Every parser of this room against its corpus and against tens of thousands of changed copies of it: whatever the
//! bytes are, the answer is a value or a refusal, never a panic, and takes no long time.
//!
//! A fuzzer's finds are added as files under `corpus/<parser>/`; this test replays them for ever.

use std::path::Path;

use schloss_authn::oauth::jwt::{self, KeySet, Unproved};
use schloss_authn::oauth::{Bearer, signed_url};
use schloss_authn::scram::{self, Challenge, ClientFirst};
use schloss_authn::signed_request::{Authorization, HttpRequest};
use schloss_authn::{mapping, msk_iam, spiffe};
use schloss_crypto::ScramMechanism;

const CHANGED_COPIES: u64 = 3_000;

/// xorshift64*: the same copies on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % sides.max(1)
    }
}

/// Letters that mean something to one parser or another.
const SPECIAL: &[u8] = b"\0\x01\n\",=/\\.{}[]():$%+-*?^|&nypc\x7f\x80\xc3\xff0";

fn change(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len() + 1);
        match dice.roll(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            1 => bytes.insert(at, SPECIAL[dice.roll(SPECIAL.len())]),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => bytes.truncate(at),
            4 => {
                let tail = bytes[at..].to_vec();
                bytes.extend(tail.into_iter().take(4096));
            }
            _ if at < bytes.len() => bytes[at] = SPECIAL[dice.roll(SPECIAL.len())],
            _ => {}
        }
    }
}

fn replay(parser: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(parser);
    let mut seeds = vec![Vec::new()];
    for entry in std::fs::read_dir(&folder).unwrap() {
        seeds.push(std::fs::read(entry.unwrap().path()).unwrap());
    }
    assert!(seeds.len() > 1, "{parser} has no corpus");
    let mut dice = Dice(0x5eed);
    for seed in &seeds {
        run(seed);
        for _ in 0..CHANGED_COPIES {
            let mut copy = seed.clone();
            change(&mut copy, &mut dice);
            run(&copy);
        }
    }
}

#[test]
fn aws_msk_iam_messages() {
    replay("msk_iam", |bytes| drop(msk_iam::read(bytes)));
}

#[test]
fn scram_first_messages() {
    replay("scram_first", |bytes| {
        if let Ok(first) = ClientFirst::read(bytes) {
            assert!(!first.user.is_empty());
        }
    });
}

#[test]
fn scram_final_messages() {
    let first = ClientFirst::read(b"n,,n=user,r=abc").unwrap();
    let verifier = scram::nobody(ScramMechanism::Sha256, vec![1; 16], 8192).unwrap();
    replay("scram_final", |bytes| {
        let challenge = Challenge::new(&first, &verifier);
        assert!(challenge.finish(&verifier, bytes).is_err(), "nobody has logged in");
    });
}

#[test]
fn bearer_messages() {
    replay("bearer", |bytes| {
        if let Ok(bearer) = Bearer::read(bytes) {
            let _ = bearer.kind();
        }
    });
}

#[test]
fn signed_urls() {
    replay("signed_url", |bytes| drop(signed_url::read(&String::from_utf8_lossy(bytes))));
}

#[test]
fn signed_requests() {
    replay("signed_request", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let headers: Vec<(&str, &str)> = head.lines().filter_map(|line| line.split_once(": ")).collect();
        let request = HttpRequest { method: "POST", path: "/", query: "", headers: &headers, body: body.as_bytes() };
        if let Ok(Some(authorization)) = Authorization::read(&request, "sts") {
            let _ = authorization.check_time(1_795_342_272_000);
            assert!(authorization.verify(&request, "nobody's secret").is_err());
        }
    });
}

#[test]
fn json_web_tokens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/jwt");
    let keys = KeySet::read(&std::fs::read(folder.join("jwks.json")).unwrap()).unwrap();
    let rules = jwt::Rules {
        issuer: "https://login.example/tenant".into(),
        audiences: vec!["kafka".into()],
        algorithms: jwt::ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect(),
        skew_ms: 0,
    };
    let whole = ["rs256", "es256", "rs256-without-kid"];
    let honest: Vec<String> = whole.iter().map(|n| std::fs::read_to_string(folder.join(n)).unwrap()).collect();
    replay("jwt", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = Unproved::read(&text);
        // Public-key arithmetic is slow; a sixteenth of the copies are checked to the end.
        if bytes.len() % 16 == 0 && jwt::verify(&text, &rules, &keys, 1_795_342_300_000).is_ok() {
            assert!(honest.contains(&text.into_owned()), "a changed token was proved");
        }
    });
}

#[test]
fn key_sets() {
    replay("jwks", |bytes| drop(KeySet::read(bytes)));
}

#[test]
fn mapping_rules() {
    replay("mapping", |bytes| {
        if let Ok(rules) = mapping::Rules::read(&String::from_utf8_lossy(bytes)) {
            let _ = rules.apply("CN=duke,OU=team,O=acme");
        }
    });
}

#[test]
fn spiffe_ids() {
    replay("spiffe", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Some(id) = spiffe::parse(&text) {
            assert_eq!(format!("spiffe://{}{}", id.trust_domain, id.path), text);
        }
    });
}
