//! The vectors of the manual's page of formats, so that the page cannot say something else than the code does.

/// The manual's bytes of this name, in hexadecimal without breaks.
pub(crate) fn vector(name: &str) -> String {
    let page = include_str!("../../broker/manual/formats.md");
    let begin = format!("```vector {name}\n");
    let (_, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("the manual has no vector `{name}`"));
    let (block, _) = rest.split_once("```").unwrap();
    block.lines().filter(|line| !line.is_empty() && line.bytes().all(|b| b.is_ascii_hexdigit())).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
