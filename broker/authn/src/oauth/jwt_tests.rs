use super::*;

/// 2026-11-22T10:11:12Z, when the tokens of the corpus were issued; they end an hour later.
const ISSUED_MS: i64 = 1_795_342_272_000;
const HOUR_MS: i64 = 3_600_000;

/// Keys and tokens made by Python's `cryptography`.
fn token(name: &str) -> String {
    std::fs::read_to_string(format!("{}/corpus/jwt/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn keys() -> KeySet {
    KeySet::read(token("jwks.json").as_bytes()).unwrap()
}

fn rules() -> Rules {
    Rules {
        issuer: "https://login.example/tenant".into(),
        audiences: vec!["kafka".into()],
        algorithms: vec![Algorithm::RS256, Algorithm::ES256],
        skew_ms: 30_000,
    }
}

fn judged(name: &str) -> Result<Map<String, Value>, JwtRefusal> {
    verify(&token(name), &rules(), &keys(), ISSUED_MS)
}

#[test]
fn tokens_by_rsa_and_by_elliptic_curve_are_proved() {
    for name in ["rs256", "es256", "rs256-without-kid"] {
        assert_eq!(judged(name).unwrap()["sub"], "service-a", "{name}");
    }
}

#[test]
fn each_wrong_token_is_refused_at_its_step() {
    use JwtRefusal as R;
    let wrong = [
        ("rs256-other-key", R::Signature),
        ("rs256-unknown-kid", R::UnknownKey),
        ("rs256-encryption-key", R::UnknownKey),
        ("rs256-without-exp", R::NoExpiry),
        ("rs256-other-audience", R::Audience),
        ("rs256-without-audience", R::Audience),
        ("rs256-other-issuer", R::Issuer),
        ("rs256-crit", R::Header),
        ("hs256", R::Algorithm),
        ("none", R::Algorithm),
        ("ps256-key-of-rs256", R::Algorithm),
    ];
    for (name, refusal) in wrong {
        assert_eq!(judged(name), Err(refusal), "{name}");
    }
}

#[test]
fn key_that_names_its_algorithm_checks_no_other_even_when_the_issuer_allows_it() {
    let rules = Rules { algorithms: vec![Algorithm::PS256, Algorithm::RS256], ..rules() };
    assert_eq!(verify(&token("ps256-key-of-rs256"), &rules, &keys(), ISSUED_MS), Err(JwtRefusal::UnknownKey));
}

#[test]
fn token_is_good_from_issue_to_expiry_with_the_skew_at_both_ends() {
    let at = |now_ms| verify(&token("rs256"), &rules(), &keys(), now_ms).map(drop);
    assert_eq!(at(ISSUED_MS - 30_000), Ok(()));
    assert_eq!(at(ISSUED_MS - 30_001), Err(JwtRefusal::NotYet));
    assert_eq!(at(ISSUED_MS + HOUR_MS + 29_999), Ok(()));
    assert_eq!(at(ISSUED_MS + HOUR_MS + 30_000), Err(JwtRefusal::Expired));
}

#[test]
fn every_flipped_bit_of_a_token_is_refused() {
    let token = token("es256");
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else { continue };
        let outcome = verify(&changed, &rules(), &keys(), ISSUED_MS);
        // The last letter of base64 has bits that mean nothing; a strict decoder refuses them.
        assert!(outcome.is_err(), "byte {at}");
    }
}

#[test]
fn key_set_without_a_usable_key_is_refused() {
    assert_eq!(KeySet::read(b"[]").unwrap_err(), KeySetError::Form);
    assert_eq!(KeySet::read(br#"{"keys":[]}"#).unwrap_err(), KeySetError::Empty);
    assert_eq!(KeySet::read(br#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#).unwrap_err(), KeySetError::Empty);
    let many = format!(r#"{{"keys":[{}]}}"#, vec!["{}"; KEYS_MAX + 1].join(","));
    assert_eq!(KeySet::read(many.as_bytes()).unwrap_err(), KeySetError::TooMany);
}

#[test]
fn claims_become_texts_and_lists_for_conditions() {
    let claims = judged("rs256").unwrap();
    let values = condition_values(&claims);
    let value =
        |name: &str| values.iter().find(|claim| claim.name == name).map(|claim| (claim.values.clone(), claim.is_list));
    assert_eq!(value("sub"), Some((vec!["service-a".into()], false)));
    assert_eq!(value("groups"), Some((vec!["a".into(), "b".into()], true)));
    assert_eq!(value("admin"), Some((vec!["true".into()], false)));
    assert_eq!(value("n"), Some((vec!["3".into()], false)));
}

#[test]
fn claims_inside_objects_are_named_by_their_way() {
    let text =
        r#"{"kubernetes.io":{"namespace":"shop","serviceaccount":{"name":"orders"}},"a":{"b":{"c":{"d":{"e":1}}}}}"#;
    let names: Vec<_> =
        condition_values(&serde_json::from_str(text).unwrap()).into_iter().map(|claim| claim.name).collect();
    assert_eq!(names, ["kubernetes.io/namespace", "kubernetes.io/serviceaccount/name"]);
}
