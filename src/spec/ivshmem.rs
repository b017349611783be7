//! The ivshmem-server protocol's numbers (QEMU, "Device Specification for Inter-VM shared memory device").
