//! The conformance driver of the asynchronous client: as `conform`.

#[cfg(feature = "tokio")]
#[path = "driver/asynchronous.rs"]
mod driver;

fn main() {
    #[cfg(feature = "tokio")]
    driver::main();
}
