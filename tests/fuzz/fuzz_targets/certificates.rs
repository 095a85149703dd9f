//! What certificates are mapped by: `ssl.principal.mapping.rules` and SPIFFE ids.
#![no_main]

use libfuzzer_sys::fuzz_target;
use schloss_authn::{mapping, spiffe};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(rules) = mapping::Rules::read(&text) {
        let _ = rules.apply("CN=duke,OU=team,O=acme");
    }
    if let Some(id) = spiffe::parse(&text) {
        assert_eq!(format!("spiffe://{}{}", id.trust_domain, id.path), text);
    }
});
