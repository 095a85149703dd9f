use super::*;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// By botocore 1.44.8, without and with a session token.
const BOTOCORE_PLAIN: &str = "8a48a0ffd32d207013ac008ce5392512039091196fa86cf30955a093494e5fa7";
const BOTOCORE_TOKEN: &str = "21d3e3e7ad7dbb7f2373dfe8d0a5750ad950d98ca1bc0ad6de0ed906ee8f69fd";

fn parts<'a>(date: &'a str, signature: &'a str) -> Parts<'a> {
    Parts {
        action: ACTION,
        algorithm: ALGORITHM,
        credential: "AKIDEXAMPLE/20261122/eu-central-1/kafka-cluster/aws4_request",
        date,
        expires: "900",
        session_token: None,
        signed_headers: "host",
        signature,
        host: "broker-1.schloss.example",
    }
}

fn signed(session_token: Option<&str>) -> Presigned {
    let zeros = "00".repeat(32);
    let mut presigned = Presigned::new(&Parts { session_token, ..parts("20261122T101112Z", &zeros) }).unwrap();
    let key = SigningKey::derive(SECRET, presigned.day(), &presigned.region);
    presigned.signature = hmac_sha256(&*key.0, &[presigned.string_to_sign().as_bytes()]);
    presigned
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    push_hex(bytes, &mut text);
    text
}

#[test]
fn signing_key_equals_the_one_aws_publishes() {
    // AWS, "Deriving the signing key": day 20150830, us-east-1, iam. The chain is the same but for the service.
    let mut key = hmac_sha256(b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", &[b"20150830"]);
    for part in ["us-east-1", "iam", "aws4_request"] {
        key = hmac_sha256(&key, &[part.as_bytes()]);
    }
    assert_eq!(hex(&key), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
}

#[test]
fn signatures_equal_those_of_botocore() {
    assert_eq!(hex(&signed(None).signature), BOTOCORE_PLAIN);
    assert_eq!(hex(&signed(Some("IQoJb3JpZ2luX2VjE+/=x y~")).signature), BOTOCORE_TOKEN);
}

#[test]
fn every_changed_part_breaks_the_signature() {
    let presigned = signed(Some("token"));
    let key = SigningKey::derive(SECRET, presigned.day(), &presigned.region);
    assert_eq!(presigned.verify(&key), Ok(()));
    let changed = [
        Presigned { access_key_id: "AKIDEXAMPLF".into(), ..presigned.clone() },
        Presigned { region: "eu-central-2".into(), ..presigned.clone() },
        Presigned { session_token: Some("tokem".into()), ..presigned.clone() },
        Presigned { session_token: None, ..presigned.clone() },
        Presigned { host: "broker-2.schloss.example".into(), ..presigned.clone() },
        Presigned { timestamp: "20261122T101113Z".into(), ..presigned.clone() },
        Presigned { expires: "899".into(), ..presigned.clone() },
    ];
    for wrong in changed {
        assert_eq!(wrong.verify(&key), Err(SignatureRefusal::Mismatch), "{wrong:?}");
    }
    assert_eq!(
        presigned.verify(&SigningKey::derive("other", "20261122", "eu-central-1")),
        Err(SignatureRefusal::Mismatch)
    );
}

#[test]
fn window_is_fifteen_minutes_ahead_and_the_stated_validity_behind() {
    let presigned = signed(None);
    let at = presigned.signed_ms;
    assert_eq!(at, 1_795_342_272_000);
    assert_eq!(presigned.check_time(at - WINDOW_MS), Ok(()));
    assert_eq!(presigned.check_time(at - WINDOW_MS - 1), Err(SignatureRefusal::NotYet));
    assert_eq!(presigned.check_time(at + 900_000), Ok(()));
    assert_eq!(presigned.check_time(at + 900_001), Err(SignatureRefusal::Expired));
}

#[test]
fn malformed_instants_are_refused() {
    let zeros = "00".repeat(32);
    for date in [
        "",
        "20261122T101112",
        "20261122T101112z",
        "20261122 101112Z",
        "20261122T251112Z",
        "2026+122T101112Z",
        "20260230T101112Z",
        "ü0261122T10111Z",
    ] {
        assert_eq!(Presigned::new(&parts(date, &zeros)), Err(SignatureRefusal::Date), "{date}");
    }
}

#[test]
fn remembered_key_is_not_used_for_another_secret() {
    let presigned = signed(None);
    let mut keys = SigningKeys::new(2);
    assert_eq!(presigned.verify(&keys.of(&presigned, SECRET)), Ok(()));
    assert_eq!(presigned.verify(&keys.of(&presigned, "rotated")), Err(SignatureRefusal::Mismatch));
    assert_eq!(presigned.verify(&keys.of(&presigned, SECRET)), Ok(()));
}

#[test]
fn cache_of_signing_keys_stays_within_its_bound() {
    let mut keys = SigningKeys::new(2);
    for n in 0..5 {
        let presigned = Presigned { access_key_id: format!("AKID{n}"), ..signed(None) };
        let _ = keys.of(&presigned, SECRET);
        assert!(keys.keys.len() <= 2);
    }
}

#[test]
fn debug_of_a_signing_key_does_not_show_it() {
    assert_eq!(format!("{:?}", SigningKey::derive(SECRET, "20261122", "x")), "SigningKey(..)");
}
