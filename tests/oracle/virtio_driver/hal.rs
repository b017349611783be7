//! virtio-drivers' memory: whatever it shares is copied to bus memory and back, as where an IOMMU or a
//! bounce buffer stands between driver and device.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::Random;
use crate::image::Image;

const BASE: u64 = 0x10_0000;
const LEN: u32 = 32 << 20;
/// What memory holds that was given back: a frame that is read too late has the wrong bytes.
const GONE: u8 = 0xee;

thread_local! {
    /// Of the driver of this thread: [`Hal`] has functions, not methods.
    static ARENA: RefCell<Option<Arena>> = const { RefCell::new(None) };
}

/// Bus memory from which pieces are lent.
pub(super) struct Arena {
    image: Arc<Image>,
    /// Address and length of what is free.
    free: BTreeMap<u64, u64>,
    random: Random,
}

impl Arena {
    /// Gives this thread's drivers new memory.
    pub(super) fn install(seed: u64) -> Arc<Image> {
        let image = Arc::new(Image::new(&[(BASE, LEN)]));
        let free = BTreeMap::from([(BASE, LEN.into())]);
        let arena = Self { image: image.clone(), free, random: Random(seed | 1) };
        ARENA.set(Some(arena));
        image
    }

    /// All was given back but posted buffers, which virtio-drivers does not take back when it ends.
    pub(super) fn holds_buffers(count: usize, len: usize) {
        let buffer = block(NonNull::slice_from_raw_parts(NonNull::<u8>::dangling(), len));
        let free = Self::with(|arena| arena.free.values().sum::<u64>());
        assert_eq!(u64::from(LEN) - free, u64::try_from(count).unwrap() * buffer);
    }

    fn with<T>(f: impl FnOnce(&mut Self) -> T) -> T {
        ARENA.with_borrow_mut(|arena| f(arena.as_mut().expect("memory was installed")))
    }

    fn take(&mut self, len: u64, align: u64) -> u64 {
        let mut fit =
            self.free.iter().map(|(from, size)| (*from, from.next_multiple_of(align), *size));
        let (from, at, size) =
            fit.find(|(from, at, size)| at + len <= from + size).expect("there is memory enough");
        self.free.remove(&from);
        if at > from {
            self.free.insert(from, at - from);
        }
        if at + len < from + size {
            self.free.insert(at + len, from + size - at - len);
        }
        at
    }

    fn give(&mut self, at: u64, len: u64) {
        self.image.write(at, &vec![GONE; usize::try_from(len).unwrap()]);
        let (mut at, mut len) = (at, len);
        if let Some((before, size)) = self.free.range(..at).next_back().map(|(a, l)| (*a, *l)) {
            if before + size == at {
                self.free.remove(&before);
                (at, len) = (before, size + len);
            }
        }
        if let Some(size) = self.free.remove(&(at + len)) {
            len += size;
        }
        assert!(self.free.insert(at, len).is_none(), "given back once");
    }

    fn pointer(&self, at: u64) -> NonNull<u8> {
        NonNull::new(self.image.guest.get_host_address(GuestAddress(at)).unwrap()).unwrap()
    }
}

fn bytes(pages: usize) -> u64 {
    u64::try_from(pages * PAGE_SIZE).unwrap()
}

/// What a shared buffer takes: it may begin anywhere in a word.
fn block(buffer: NonNull<[u8]>) -> u64 {
    u64::try_from(buffer.len() + 7).unwrap().next_multiple_of(8)
}

// SAFETY: pages come from a mapping that lives as long as the arena, each is lent once until it is given
// back, and they are zeroed.
unsafe impl Hal for Arena {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        Self::with(|arena| {
            let at = arena.take(bytes(pages), 4096);
            arena.image.write(at, &vec![0; pages * PAGE_SIZE]);
            (at, arena.pointer(at))
        })
    }

    unsafe fn dma_dealloc(at: PhysAddr, pointer: NonNull<u8>, pages: usize) -> i32 {
        Self::with(|arena| {
            assert_eq!(arena.pointer(at), pointer);
            arena.give(at, bytes(pages));
        });
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("no transport here has registers in memory")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        Self::with(|arena| {
            let at = arena.take(block(buffer), 8) + arena.random.next() % 8;
            if direction != BufferDirection::DeviceToDriver {
                // SAFETY: a buffer that the driver promises nobody else uses.
                arena.image.write(at, unsafe { buffer.as_ref() });
            }
            at
        })
    }

    unsafe fn unshare(at: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        Self::with(|arena| {
            if direction != BufferDirection::DriverToDevice {
                // SAFETY: as above.
                let buffer = unsafe { buffer.as_mut() };
                arena.image.guest.read_slice(buffer, GuestAddress(at)).unwrap();
            }
            arena.give(at & !7, block(buffer));
        });
    }
}
