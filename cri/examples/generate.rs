//! Writes `src/runtime.v1.rs` anew from `proto/api.proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile([dir.join("proto/api.proto")], [dir.join("proto")])?;
    tonic_prost_build::configure().build_transport(false).out_dir(dir.join("src")).compile_fds(files)?;
    Ok(())
}
