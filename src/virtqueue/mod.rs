//! Virtqueues: the driver half and the device half.
