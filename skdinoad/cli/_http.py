"""``serve``: run the HTTP server."""

import ipaddress
import socket
import sys

from skdinoad.cli._describe import file_digest
from skdinoad.cli._paths import good_images, load_model
from skdinoad.serve import make_app, run

__all__ = ["serve"]


def serve(options) -> int:
    """Print the address and serve until a stop signal."""
    app = make_app(
        load_model(options.model),
        good=None if options.good is None else good_images(options.good),
        queue=options.queue,
        max_bytes=options.max_bytes,
        title=options.model.name,
        about=file_digest(options.model),
    )
    with _listening(options.host, options.port) as listening:
        address, port = listening.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        if not ipaddress.ip_address(address).is_loopback:
            print(
                "Anyone who can reach this address can use the model and see the last "
                "images: use a proxy with authentication and TLS.",
                file=sys.stderr,
            )
        print(f"Serving {options.model} at http://{shown}:{port}", flush=True)
        run(app, listening)
    return 0


def _listening(host, port):
    """Return a listening socket, or raise an error that names the address."""
    if not 0 <= port < 2**16:
        raise ValueError(f"--port {port}: expected 0..65535.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen at {host}, port {port}: {error}") from error
    # Inherited by connections. Otherwise the end of a response waits 40 ms for the
    # client to acknowledge its start.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
