//! Reads the symbol lists that the worker keeps in Redis.

use tradebot_symbols::symbols::blocking::SymbolReads;
use tradebot_symbols::symbols::{Market, ProcessEnvironment, ReadsSettings};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let reads = SymbolReads::start(ReadsSettings::read(&ProcessEnvironment)?, "example")?;
    for market in Market::ALL {
        let reading = reads.read(market)?;
        println!("{market}: {} symbols", reading.list.count());
    }
    reads.stop();
    Ok(())
}
