//! Tokens: signed URLs of the MSK signers, JSON web tokens, key sets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use schloss_authn::oauth::jwt::{KeySet, Unproved};
use schloss_authn::oauth::signed_url;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let _ = signed_url::read(&text);
    let _ = Unproved::read(&text);
    let _ = KeySet::read(bytes);
});
