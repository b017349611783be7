//! A device's half that breaks the rules, against our driver.

use crate::case::Table;

pub(crate) fn tables() -> Vec<Table> {
    vec![]
}
