//! iceoryx2's request-response service, polled on both sides.

use std::hint::spin_loop;

use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::PortFactory as _;
use iceoryx2::service::port_factory::request_response::PortFactory;

use super::Arguments;
use super::pair::Other;
use super::timing::Timing;

type Payload = [u64; 8];

fn open(arguments: &Arguments) -> anyhow::Result<PortFactory<ipc::Service, Payload, (), Payload, ()>> {
    set_log_level(LogLevel::Error);
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let name = arguments.name();
    Ok(node.service_builder(&name.as_str().try_into()?).request_response::<Payload, Payload>().open_or_create()?)
}

pub fn ask(arguments: &Arguments) -> anyhow::Result<()> {
    let service = open(arguments)?;
    let client = service.client_builder().create()?;
    let (_, nothing) = std::os::unix::net::UnixStream::pair()?;
    let mut other = Other::start(nothing.into())?;
    while service.dynamic_config().number_of_servers() == 0 {
        spin_loop();
    }
    let mut number = 0;
    let timed = Timing::new(arguments).run(|| {
        number += 1;
        let pending = client.loan_uninit()?.write_payload([number; 8]).send()?;
        loop {
            if let Some(reply) = pending.receive()? {
                anyhow::ensure!(reply.payload()[0] == number, "a reply to something else");
                return Ok(());
            }
            spin_loop();
        }
    });
    // It ends by itself, and takes its files along.
    other.0.wait()?;
    timed
}

pub fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let service = open(arguments)?;
    let server = service.server_builder().create()?;
    let mut served = 0;
    while served < arguments.round_trips() {
        match server.receive()? {
            Some(request) => {
                let payload = *request.payload();
                request.loan_uninit()?.write_payload(payload).send()?;
                served += 1;
            }
            None => spin_loop(),
        }
    }
    Ok(())
}
