//! Memory that sees each of the victim's accesses.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use boardlane::memory::cells::Cells;

use super::*;

/// Plain memory, and what becomes of it as it is read.
#[derive(Debug)]
pub(crate) struct Model {
    bytes: Arc<Mapping>,
    watch: Mutex<Watch>,
}

#[derive(Debug, Default)]
struct Watch {
    allowed: Option<Vec<Range<u64>>>,
    trespasses: Vec<u64>,
    reads: u64,
    /// By place: what an octet becomes once it was read.
    fickle: BTreeMap<u64, u8>,
}

impl Model {
    pub(crate) fn new(bytes: Arc<Mapping>) -> Self {
        Self { bytes, watch: Mutex::default() }
    }

    /// Without spans, it is memory as any other.
    pub(crate) fn confine(&self, spans: &[Range<u64>]) {
        let mut watch = self.watch.lock().unwrap();
        watch.allowed = Some(spans.to_vec()).filter(|spans| !spans.is_empty());
        if spans.is_empty() {
            watch.fickle.clear();
        }
    }

    pub(crate) fn change_once_read(&self, at: u64, then: &[u8]) {
        self.watch.lock().unwrap().fickle.extend((at..).zip(then.iter().copied()));
    }

    fn check_size(&self, size: usize) {
        assert!(size >= 4 || self.bytes.kind() == Kind::Cached, "an access of {size} bytes");
    }

    pub(crate) fn trespasses(&self) -> (Vec<u64>, u64) {
        let watch = self.watch.lock().unwrap();
        (watch.trespasses.clone(), watch.reads)
    }
}

impl Watch {
    fn check(&mut self, at: u64, size: usize) {
        let end = at + size as u64;
        let inside = |span: &Range<u64>| span.start <= at && end <= span.end;
        if self.allowed.as_ref().is_some_and(|spans| !spans.iter().any(inside)) {
            self.trespasses.push(at);
        }
    }
}

impl Cells for Model {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn load(&self, offset: usize, size: usize, _: Ordering) -> u64 {
        self.check_size(size);
        let mut watch = self.watch.lock().unwrap();
        let at = offset as u64;
        watch.check(at, size);
        watch.reads += 1;
        let view = self.bytes.view(0, self.bytes.len());
        let mut octets = [0; 8];
        match size {
            8 => octets = view.load_acquire_le64(offset).to_le_bytes(),
            4 => octets[..4].copy_from_slice(&view.load_acquire_le32(offset).to_le_bytes()),
            2 => octets[..2].copy_from_slice(&view.load_acquire_le16(offset).to_le_bytes()),
            _ => view.copy_to(offset, &mut octets[..size]),
        }
        for place in at..at + size as u64 {
            if let Some(then) = watch.fickle.remove(&place) {
                view.copy_from(usize::try_from(place).unwrap(), &[then]);
            }
        }
        u64::from_le_bytes(octets)
    }

    fn store(&self, offset: usize, size: usize, value: u64, _: Ordering) {
        self.check_size(size);
        self.watch.lock().unwrap().check(offset as u64, size);
        let view = self.bytes.view(0, self.bytes.len());
        match size {
            8 => view.store_release_le64(offset, value),
            4 => view.store_release_le32(offset, u32::try_from(value).unwrap()),
            _ => view.copy_from(offset, &value.to_le_bytes()[..size]),
        }
    }
}
