#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| boardlane_fuzz::vhost_user::run(data));
