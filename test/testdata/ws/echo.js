// SPDX-License-Identifier: Apache-2.0
//
// Node's ws as a server that sends back what it gets: echo.js PACKAGE PORT.
// A client that asks for the subprotocol "chat" gets it, as applications do.

const [, , location, port] = process.argv;
const { WebSocketServer } = require(location);

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(port),
  handleProtocols: (offered) => (offered.has('chat') ? 'chat' : false),
  perMessageDeflate: process.argv[4] === 'deflate',
});
server.on('connection', (socket) => {
  socket.on('error', () => {}); // the tests break the protocol on purpose
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
});
