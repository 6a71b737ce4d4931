#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratalog_fuzz::compression(data));
