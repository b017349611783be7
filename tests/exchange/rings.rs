//! Chains: direct and by an indirect table, used in another order than they came, three laps.

use boardlane::memory::BusMemory;
use boardlane::virtqueue::{Buffer, Chain, QueueConfig, Used};

use super::{Board, DRIVER_MEMORY, Master, Stage, WINDOW};

const TABLES: u64 = WINDOW + 0x3800;
/// Where a chain's first buffer lies; the next follows in the same line.
const TEXT: u64 = WINDOW + 0x4000;
const ANSWER: u64 = DRIVER_MEMORY + 0x4000;

/// A queue of `size` in the `place`th part of what is for queues.
pub(super) fn config(place: u64, size: u16, packed: bool) -> QueueConfig {
    QueueConfig {
        size,
        desc: WINDOW + 0x3000 + 0x200 * place,
        driver: WINDOW + 0x3100 + 0x200 * place,
        device: DRIVER_MEMORY + 0x3000 + 0x200 * place,
        packed,
        in_order: false,
        event_idx: true,
        indirect: true,
    }
}

/// Readable lengths of a chain, writable length, token.
type Sent = (&'static [u32], u32, u16);
const CHAINS: [Sent; 3] = [(&[3, 5], 7, 1), (&[2], 0, 4), (&[1, 2, 3, 4], 9, 6)];

fn buffers(&(lens, answer, token): &Sent) -> (Vec<Buffer>, Vec<Buffer>) {
    let mut addr = TEXT + 64 * u64::from(token);
    let readable = lens.iter().map(|&len| {
        addr += u64::from(len);
        Buffer { addr: addr - u64::from(len), len }
    });
    let writable = Buffer { addr: ANSWER + 64 * u64::from(token), len: answer };
    (readable.collect(), (answer > 0).then_some(writable).into_iter().collect())
}

fn text(token: u16, lap: u8, len: u32) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i).unwrap() + 16 * u8::try_from(token).unwrap() + lap).collect()
}

fn fetch(mem: &BusMemory, addr: u64, len: u32) -> Vec<u8> {
    let span = mem.resolve(addr, len).unwrap();
    let mut octets = vec![0; span.len()];
    mem.view(span).unwrap().copy_to(0, &mut octets);
    octets
}

pub(super) fn play(
    stage: &mut Stage,
    master: &mut Option<Master>,
    board: &mut Option<Board>,
    packed: bool,
) {
    let config = config(if packed { 1 } else { 0 }, 8, packed);
    stage.step(master, "master sets a queue up", |end, mem, _| {
        let mut queue = config.activate_driver(mem).unwrap();
        queue.set_indirect_tables(mem, TABLES, 3).unwrap();
        end.queue = Some(queue);
    });
    stage.step(board, "board sets the queue up", |end, mem, _| {
        end.queue = Some(config.activate_device(mem).unwrap());
    });
    for lap in 0..3 {
        stage.step(master, "master makes chains available", |end, mem, _| add(end, mem, lap));
        stage.step(board, "board uses them", |end, mem, _| answer(end, mem, lap));
        stage.step(master, "master takes them back", |end, mem, _| take_back(end, mem, lap));
    }
}

fn add(end: &mut Master, mem: &BusMemory, lap: u8) {
    let queue = end.queue.as_mut().unwrap();
    for chain in &CHAINS {
        let (readable, writable) = buffers(chain);
        for b in &readable {
            let view = mem.view(mem.resolve(b.addr, b.len).unwrap()).unwrap();
            view.copy_from(0, &text(chain.2, lap, b.len));
        }
        queue.add(mem, &readable, &writable, chain.2).unwrap();
    }
    assert!(queue.publish(mem), "the board is to be rung");
}

fn answer(end: &mut Board, mem: &BusMemory, lap: u8) {
    let queue = end.queue.as_mut().unwrap();
    let mut heads = Vec::new();
    let mut chain = Chain::default();
    for &(lens, answer, token) in &CHAINS {
        assert!(queue.pop(mem, &mut chain).unwrap());
        assert_eq!((chain.readable.len(), chain.writable_len()), (lens.len(), answer));
        for (span, &len) in chain.readable.iter().zip(lens) {
            let mut octets = vec![0; span.len()];
            mem.view(*span).unwrap().copy_to(0, &mut octets);
            assert_eq!(octets, text(token, lap, len));
        }
        for span in &chain.writable {
            mem.view(*span).unwrap().copy_from(0, &text(token, 0xf0 - 16 * 7 - lap, answer));
        }
        heads.push((chain.head, answer));
    }
    assert!(!queue.pop(mem, &mut chain).unwrap());
    for (head, len) in heads.into_iter().rev() {
        queue.push(mem, head, len);
    }
    assert!(queue.publish(mem), "the master is to be rung");
    assert!(!queue.arm(mem).unwrap());
}

fn take_back(end: &mut Master, mem: &BusMemory, lap: u8) {
    let queue = end.queue.as_mut().unwrap();
    for &(_, len, token) in CHAINS.iter().rev() {
        assert_eq!(queue.pop_used(mem), Ok(Some(Used { token, len })));
        let octets = fetch(mem, ANSWER + 64 * u64::from(token), len);
        assert_eq!(octets, text(token, 0xf0 - 16 * 7 - lap, len));
    }
    assert!(!queue.arm(mem).unwrap());
}
