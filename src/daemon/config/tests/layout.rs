//! `layout = "amp-pci"`, and what it cannot stand beside.

use super::*;

#[test]
fn amp_pci_has_dialect_v1_and_no_other() {
    for dialect in ["", "dialect = \"v1\"\n"] {
        let config = parse(&format!("{HEAD}layout = \"amp-pci\"\n{dialect}")).unwrap();
        assert_eq!(
            (config.links[0].layout, config.links[0].dialect),
            (Layout::AmpPci, Dialect::V1)
        );
        let expanded = config.expand(&[]);
        assert!(expanded.contains("\ndialect = \"v1\"\nlayout = \"amp-pci\"\n"), "{expanded}");
    }
    let said = complaint(&format!("{HEAD}dialect = \"v2\"\nlayout = \"amp-pci\"\n"));
    assert!(
        said.starts_with("f.toml:4:11: layout \"amp-pci\" is made for dialect \"v1\"\n"),
        "{said}"
    );
    assert!(said.ends_with("^ write \"v1\", or take this line out"), "{said}");
}

#[test]
fn amp_pci_is_refused_beside_what_it_cannot_do() {
    for (line, what) in [
        (
            "pump = \"vhost-net\"",
            "vhost-net rings doorbells, and with layout \"amp-pci\" messages are in their place",
        ),
        (
            "engine = { dma_only = true }\ndma = \"engine\"",
            "dma_only puts rings into the window, and with layout \"amp-pci\" none is there",
        ),
    ] {
        let text = format!("{HEAD}layout = \"amp-pci\"\n{line}\n");
        let error = Config::parse("f.toml", &text, Role::Agent).expect_err(line).to_string();
        assert!(error.starts_with(&format!("f.toml:5:1: {what}\n")), "{error}");
        assert!(
            error.ends_with("^ take this line out, or write layout = \"boardlane\""),
            "{error}"
        );
        let other = text.replace("amp-pci", "boardlane");
        assert!(Config::parse("f.toml", &other, Role::Agent).is_ok(), "{other}");
    }
}
