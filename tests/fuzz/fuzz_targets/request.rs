//! Whole Kafka request frames: the walk before the decoders, then the decoders.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use schloss_wire::request;

fuzz_target!(|bytes: &[u8]| {
    let _ = request::parse(Bytes::copy_from_slice(bytes));
});
