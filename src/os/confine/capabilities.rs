//! Capabilities: of those that the thread has, a few are kept, and nothing can add to them.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, no_new_privs, remove_capability_from_bounding_set,
    set_capabilities,
};

/// Keeps these, as far as they are there; empties the bounding set. Gives what was not to be had.
pub(super) fn keep(kept: CapabilitySet) -> io::Result<Option<String>> {
    let lack = empty_bounding_set()?;
    match clear_ambient_capability_set() {
        // Before Linux 4.3.
        Err(Errno::INVAL) => {}
        done => done?,
    }
    keep_of_thread(kept)?;
    Ok(lack)
}

/// As [`keep`], without the bounding set, which then is empty.
pub(super) fn keep_of_thread(kept: CapabilitySet) -> io::Result<Option<String>> {
    let permitted = capabilities(None)?.permitted & kept;
    let sets =
        CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(None)
}

/// It bounds what a program can get that is started here. With `no_new_privs` that is nothing anyway,
/// so it is no harm, and not told, that emptying it asks for CAP_SETPCAP.
fn empty_bounding_set() -> io::Result<Option<String>> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(one) {
            Ok(false) => continue,
            Ok(true) => {}
            // The kernel knows no such capability, nor any above.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
        match remove_capability_from_bounding_set(one) {
            Err(Errno::PERM) => {
                let own = capabilities(None)?.permitted;
                let text = "an empty capability bounding set: that needs CAP_SETPCAP".to_owned();
                // Who has no capability has none to bound.
                let harmless = own.is_empty() || no_new_privs().unwrap_or(false);
                return Ok((!harmless).then_some(text));
            }
            done => done?,
        }
    }
    Ok(None)
}
