//! The `schloss` binary.

fn main() -> std::process::ExitCode {
    schloss::cli::main()
}
