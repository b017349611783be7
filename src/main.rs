//! boardlane's command line.

fn main() {}
