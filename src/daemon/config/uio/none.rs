//! Without the transport `uio:`, as this program is built.

use toml::de::DeTable;

use super::Transport;
use super::reader::{Place, Reader};

pub(super) fn read(
    reader: &mut Reader<'_>,
    _: &DeTable<'_>,
    _: &str,
    place: &Place,
) -> Option<Transport> {
    let remedy = "use a program that is built with the feature uio";
    reader.problem(place.clone(), "transport uio: is not in this program", remedy);
    None
}

pub(super) fn is_of(_: &Transport) -> bool {
    false
}

pub(super) fn expand(_: &Transport) -> Option<String> {
    None
}
