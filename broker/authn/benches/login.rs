//! What a login costs the broker's core, the TLS handshake apart.
//!
//! `cargo bench -p schloss-authn`

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use schloss_authn::msk_iam;
use schloss_authn::oauth::jwt::{self, KeySet};
use schloss_authn::scram::{self, Challenge, ClientFirst};
use schloss_authn::sigv4::{SigningKey, SigningKeys};
use schloss_crypto::ScramMechanism;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn corpus(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/corpus/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn logins(c: &mut Criterion) {
    let message = corpus("msk_iam/whole");
    c.bench_function("AWS_MSK_IAM, signing key derived", |b| {
        b.iter(|| {
            let request = msk_iam::read(black_box(&message)).unwrap();
            let key = SigningKey::derive(SECRET, request.presigned.day(), &request.presigned.region);
            black_box(request.presigned.verify(&key)).is_ok()
        });
    });
    let mut keys = SigningKeys::new(1000);
    c.bench_function("AWS_MSK_IAM, signing key remembered", |b| {
        b.iter(|| {
            let request = msk_iam::read(black_box(&message)).unwrap();
            let key = keys.of(&request.presigned, SECRET);
            black_box(request.presigned.verify(&key)).is_ok()
        });
    });
    let verifier = scram::nobody(ScramMechanism::Sha256, vec![1; 16], 8192).unwrap();
    c.bench_function("SCRAM-SHA-256, both messages", |b| {
        b.iter(|| {
            let first = ClientFirst::read(black_box(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")).unwrap();
            let challenge = Challenge::new(&first, &verifier);
            let message = String::from_utf8(challenge.message().to_vec()).unwrap();
            let nonce = message.split(',').next().unwrap();
            let last = format!("c=biws,{nonce},p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
            black_box(challenge.finish(&verifier, last.as_bytes())).is_err()
        });
    });
    let keys = KeySet::read(&corpus("jwt/jwks.json")).unwrap();
    let rules = jwt::Rules {
        issuer: "https://login.example/tenant".into(),
        audiences: vec!["kafka".into()],
        algorithms: jwt::ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).collect(),
        skew_ms: 30_000,
    };
    for name in ["rs256", "es256"] {
        let token = String::from_utf8(corpus(&format!("jwt/{name}"))).unwrap();
        c.bench_function(&format!("OAUTHBEARER, {name}"), |b| {
            b.iter(|| black_box(jwt::verify(&token, &rules, &keys, 1_795_342_300_000)).unwrap());
        });
    }
}

criterion_group!(benches, logins);
criterion_main!(benches);
