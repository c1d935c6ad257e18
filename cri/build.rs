//! Messages and services from the files in `proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Each by itself: their packages are apart.
    for file in ["proto/api.proto", "proto/deviceplugin.proto", "proto/podresources.proto"] {
        println!("cargo::rerun-if-changed={file}");
        let files = protox::compile([file], ["proto"])?;
        tonic_prost_build::configure().build_transport(false).compile_fds(files)?;
    }
    Ok(())
}
