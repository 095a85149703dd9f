//! IAM policies of every kind, and lines of a simulation.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use schloss_authz::policy::{DocumentKind, Library};
use schloss_authz::simulate::Simulator;

static SIMULATOR: LazyLock<Option<Simulator>> = LazyLock::new(|| Simulator::new().ok());

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for kind in [DocumentKind::Identity, DocumentKind::Resource, DocumentKind::Trust, DocumentKind::Guardrail] {
        let mut findings = Vec::new();
        let document = Library::default().compile(kind, &Arc::from("fuzzed"), &text, &mut findings);
        assert!(document.is_some() || !findings.is_empty(), "refused without a reason");
    }
    if let Some(simulator) = &*SIMULATOR {
        let _ = simulator.judge(&text.replace('\n', " "));
    }
});
