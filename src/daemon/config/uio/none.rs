//! Without the transport `uio:`, as this program is built.

use toml::de::DeTable;

use super::reader::{Place, Reader};
use super::{Transport, transport};

pub(super) fn read(
    reader: &mut Reader<'_>,
    _: &DeTable<'_>,
    _: &str,
    place: &Place,
) -> Option<Transport> {
    transport::not_built(reader, "uio", place);
    None
}

pub(super) fn is_of(_: &Transport) -> bool {
    false
}

pub(super) fn expand(_: &Transport) -> Option<String> {
    None
}
