//! What the tests that want a card share.

use candle_core::Device;

/// The first card; says where there is none.
#[expect(clippy::print_stderr, reason = "a comparison that was not made must be seen")]
pub(crate) fn card() -> Option<Device> {
    match Device::new_cuda(0) {
        Ok(card) => Some(card),
        Err(error) => {
            eprintln!("no card, nothing compared: {error}");
            None
        }
    }
}
