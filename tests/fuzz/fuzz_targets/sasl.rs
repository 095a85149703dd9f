//! SASL messages: AWS_MSK_IAM, both of SCRAM, OAUTHBEARER's first.
#![no_main]

use libfuzzer_sys::fuzz_target;
use schloss_authn::msk_iam;
use schloss_authn::oauth::Bearer;
use schloss_authn::scram::ClientFirst;

fuzz_target!(|bytes: &[u8]| {
    let _ = msk_iam::read(bytes);
    if let Ok(first) = ClientFirst::read(bytes) {
        assert!(!first.user.is_empty());
    }
    if let Ok(bearer) = Bearer::read(bytes) {
        let _ = bearer.kind();
    }
});
