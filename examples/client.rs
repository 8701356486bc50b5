//! Sends tasks to Celery workers in any language, and waits for their results. The example `worker` has these tasks.

use std::time::Duration;

use tradebot_symbols::client::blocking::Client;
use tradebot_symbols::client::{ClientSettings, ProcessEnvironment, Signature};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new(&ClientSettings::read(&ProcessEnvironment)?, "example")?;
    let add = |x: i64, y: i64| Signature::task("proj.add").args([x, y]);

    let one = client.send(add(2, 3))?;
    println!("2 + 3 = {}", client.get(&one, Duration::from_secs(10))?);

    let chord = Signature::group([add(1, 2), add(3, 4)]) | Signature::task("proj.sum");
    let all = client.send(chord | Signature::task("proj.double"))?;
    println!("twice the sum = {}", client.get(&all, Duration::from_secs(10))?);
    Ok(())
}
