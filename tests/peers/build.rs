//! The gRPC service, without a .proto file, so that no protoc is needed.

#[cfg(not(feature = "libraries"))]
fn main() {}

#[cfg(feature = "libraries")]
fn main() {
    use tonic_build::manual::{Builder, Method, Service};

    let method = |name: &str, route: &str, output: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type("crate::grpc::Bytes")
            .output_type(output)
            .codec_path("tonic_prost::ProstCodec")
            .build()
    };
    let service = Service::builder()
        .package("peers")
        .name("Echo")
        .method(method("echo", "Echo", "crate::grpc::Bytes"))
        .method(method("sum", "Sum", "crate::grpc::Sum"))
        .build();
    Builder::new().compile(&[service]);
}
