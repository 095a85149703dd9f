//! Judges JSON Lines from the standard input: `cargo run -p schloss-authz --example judge < questions.jsonl`.

use std::io::{BufRead, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let simulator = schloss_authz::simulate::Simulator::new()?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        writeln!(out, "{}", simulator.judge(&line?))?;
    }
    Ok(())
}
