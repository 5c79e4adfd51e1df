//! The conformance driver of the blocking client: one JSON request a line in, one JSON line for each answer out.

#[cfg(feature = "blocking")]
#[path = "driver/blocking.rs"]
mod driver;

fn main() {
    #[cfg(feature = "blocking")]
    driver::main();
}
