#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| boardlane_fuzz::control::run(data));
