//! What is done to all bytes of a view.

use super::View;

impl View<'_> {
    /// Copies all bytes of this view to the start of another, which is at least as long.
    pub fn copy_into(&self, to: &View<'_>) {
        let mut chunk = [0; 256];
        let mut at = 0;
        while at < self.len {
            let n = (self.len - at).min(chunk.len());
            self.copy_to(at, &mut chunk[..n]);
            to.copy_from(at, &chunk[..n]);
            at += n;
        }
    }

    /// Sets every byte to zero.
    pub fn zero(&self) {
        const ZEROS: [u8; 256] = [0; 256];
        let mut at = 0;
        while at < self.len {
            let n = (self.len - at).min(ZEROS.len());
            self.copy_from(at, &ZEROS[..n]);
            at += n;
        }
    }
}
