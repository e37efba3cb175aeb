//! A Hub on loopback for `ci/hub-faithful`: prints its address, then serves until its standard input ends.

use std::io::{Read, Write};

use testkit::hub_server::{Access, HubServer, ServedRepo};

fn main() -> std::io::Result<()> {
    let server = HubServer::start()?;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let model = ServedRepo::model("timm/leaf.in1k")
        .small("config.json", b"{\"architecture\": \"leaf\"}\n")
        .small("sub folder/a+b.txt", "caf\u{e9}\n".as_bytes())
        .large("model.safetensors", &bytes)
        .tag("v1.0");
    let commit = server.add(model);
    server.add(ServedRepo::dataset("org/leaves").large("data/train.parquet", &bytes[..1_000_000]));
    let secret = ServedRepo::model("org/secret").small("a.txt", b"secret\n");
    server.add(secret.access(Access::Private("hf_right".into())));
    let gated = ServedRepo::model("org/gated").small("a.txt", b"gated\n");
    server.add(gated.access(Access::Gated("hf_right".into())));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} {commit}", server.endpoint())?;
    out.flush()?;
    std::io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}
