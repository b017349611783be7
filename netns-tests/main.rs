//! Real daemons in network namespaces.

fn main() {}
