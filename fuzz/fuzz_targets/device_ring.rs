#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| boardlane_fuzz::device_ring::run(data));
