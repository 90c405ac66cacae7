// SPDX-License-Identifier: Apache-2.0
//
// Node's ws as a client: client.js PACKAGE URL COUNT. It opens COUNT
// connections at once and prints OK when each had all its messages back.

const [, , location, url, count] = process.argv;
const WebSocket = require(location);
const crypto = require('crypto');

const sizes = [0, 1, 125, 126, 65535, 65536, 1 << 20];

function one(i) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, 'chat', { perMessageDeflate: i % 2 === 1, headers: { 'x-number': String(i) } });
    const sent = sizes.map((size) => crypto.randomBytes(size));
    let got = 0;
    socket.on('error', reject);
    socket.on('open', () => {
      if (socket.protocol !== 'chat') reject(new Error(`subprotocol ${socket.protocol}`));
      sent.forEach((data) => socket.send(data));
      socket.ping('are you there');
    });
    let pongs = 0;
    socket.on('pong', (data) => {
      pongs += 1;
      if (data.toString() !== 'are you there') reject(new Error(`pong ${data}`));
    });
    socket.on('message', (data, isBinary) => {
      if (!isBinary || !data.equals(sent[got])) reject(new Error(`message ${got} came back as ${data.length} other bytes`));
      got += 1;
      if (got === sent.length) socket.close(4001, 'done');
    });
    socket.on('close', (code, reason) => {
      if (got !== sent.length || pongs !== 1 || code !== 4001 || reason.toString() !== 'done') {
        reject(new Error(`closed with ${code} ${reason} after ${got} messages and ${pongs} pongs`));
      }
      resolve();
    });
  });
}

Promise.all(Array.from({ length: Number(count) }, (_, i) => one(i))).then(
  () => console.log('OK'),
  (err) => {
    console.error(err);
    process.exit(1);
  },
);
