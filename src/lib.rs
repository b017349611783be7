//! boardlane: a virtio-net link between a PCI master and each of its boards, through shared memory.
//!
//! # Theory of operation
//!
//! A link has two ends that share a *window*, a part of the board's memory which the master maps,
//! and *driver memory*, a part of the master's which the board reaches. The master's end is a virtio
//! driver, the board's a virtio device; each shows the link to its kernel as a TAP, unless
//! its port is to discard or to echo.
//!
//! **A frame** from the master's kernel: a worker (`daemon::worker`, a thread per queue pair) reads it from
//! the TAP straight into a transmit buffer that the [driver's path](net::driver_path) lends, and the
//! [transmitq](virtqueue) gets a descriptor chain. A batch later the index is published and, if the
//! other end asked for it, its doorbell rung. There a worker takes the chain from the
//! [device's path](net::device_path), which copies header and first bytes to private memory,
//! [checks them](net::frame), and lends the shared rest; the TAP is written from both. The way back
//! is the same with receiveq: the device's worker fills buffers that the driver posted. With no room
//! ahead a worker stops reading; the kernel's queue waits. The kernel's vhost-net (`os::vhost_net`) may
//! stand in for a device's worker.
//!
//! **A configuration message**: instead of touching a device's registers, the driver's half of the
//! tunnel ([`tunnel::driver`]) runs virtio's initialisation as requests. The [codec](tunnel::message)
//! gives them octets, a [FIFO](tunnel::fifo) near its reader carries them, a doorbell announces them.
//! The device's half ([`tunnel::device`]) answers from the [device model](net::model). Once that says
//! DRIVER_OK, each end's [`link::Link`] makes a data path for its worker. Before any message, the
//! [session](tunnel::session) lets the ends find each other in the window's header: an end that starts
//! draws a new *epoch*, and what was set up with the old one is gone. A second [layout](tunnel::amp) has
//! no header, and messages for all of this.
//!
//! **vhost-user** takes the place of window, session and messages where the other end is a process of
//! this machine: at an agent a front-end (QEMU, DPDK) configures the same device model
//! ([`link::back_end`]), at a master the same driver half drives somebody else's device
//! ([`link::front_end`]). Rings then start and stop in the middle, and memory comes and goes.
//!
//! **A command** of the control queue (a filter, the number of pairs) is the link's own: the
//! [device's end](net::control) has the model carry it out, and workers look at what it
//! [set](net::settings). A pair's data path [changes hands](link) between link and worker, so that a
//! queue may be reset, or pairs come and go, while the others carry frames.
//!
//! All of this but the workers is values without I/O: `handle_*` takes an input, `poll_*` gives an
//! output, `now` is an argument. `examples/two_links.rs` is a whole link in one thread.
//!
//! # Floors
//!
//! Imports go down only, and modules on one floor do not know each other; `tests/floors.rs` checks it.
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | 8 | the binary | arguments |
//! | 7 | `daemon` (feature `cli`) | config, supervisor, broker, link tasks, workers, control socket, demo |
//! | 6 | `os` (feature `os`) | TAP, rtnetlink, namespaces, polling, DMA engine, confinement; backplane and transport |
//! | 5 | `sim` (feature `sim`) | links over modelled memory, with faults, as a seed says |
//! | 4 | [`link`], [`plan`] | one end of one link; what netlink has to change |
//! | 3 | [`net`] | frames and chains, offloads, the device model |
//! | 2 | [`virtqueue`], [`tunnel`], [`dma`] | rings, driver and device half; configuration messages; copies as values |
//! | 1 | [`memory`] | bus addresses, regions, access to shared memory |
//! | 0 | [`spec`], [`atomic`], [`planted`] | numbers and octets of the standards; counters; bugs for tests to plant |
//!
//! Floors 0 to 5 use no OS: without features this crate is them, over zerocopy alone. `unsafe` stands
//! in [`memory::mapping`] and `os` only.

#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

pub mod atomic;
#[cfg(feature = "cli")]
pub mod daemon;
pub mod dma;
pub mod link;
pub mod memory;
pub mod net;
#[cfg(feature = "os")]
pub mod os;
pub mod plan;
#[cfg_attr(not(feature = "sim"), doc(hidden))]
pub mod planted;
#[cfg(feature = "sim")]
pub mod sim;
pub mod spec;
pub mod tunnel;
pub mod virtqueue;
