//! A function that is looked at.

use super::*;
use crate::os::fabric::pci::PciError;

#[test]
fn a_function_that_answers_can_be_looked_at_and_stays_as_it_is() {
    let machine = Machine::new("look");
    machine.add(IVSHMEM, &Made::default());
    let function = machine.look(IVSHMEM);
    let kind = check(&function).unwrap();
    let file = |name: &str| machine.tree.file(function.address, name);
    let error = machine.tree.answers(&function).unwrap_err();
    assert!(error.to_string().contains("/config: "), "{error}");
    for (command, answers) in [(0_u8, false), (5, false), (2, true), (6, true)] {
        fs::write(file("config"), [0xf4, 0x1a, 0x10, 0x11, command, 0]).unwrap();
        assert_eq!(machine.tree.answers(&function).unwrap(), answers);
    }
    let error = machine.tree.look(&function, kind).unwrap_err();
    assert!(matches!(error, PciError::Os { .. }), "{error}");
    let mut memory = vec![0; 1 << 20];
    memory[(1 << 20) - 8..].fill(7);
    fs::write(file("resource2"), &memory).unwrap();
    let before = machine.state(IVSHMEM);
    let looked = machine.tree.look(&function, kind).unwrap();
    let last = looked.memory.look((1 << 20) - 8, 8).unwrap();
    assert_eq!((looked.memory.len(), last.load_le64(0)), (1 << 20, 0x0707_0707_0707_0707));
    assert!(!looked.is_lost());
    assert_eq!(machine.state(IVSHMEM), before);
}
