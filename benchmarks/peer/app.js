'use strict';
// The other side of the measurements: what the 2017 reference app did with a notification, on today's Express. It checks
// the token, posts all items to Zendesk in one call inside the request, and answers with Zendesk's status. It stores
// nothing. Written for these measurements, and as fast as such an app can be: connections to Zendesk are kept.

const http = require('node:http');
const express = require('express');

const { PORT, BEARER_TOKEN, ZENDESK_URL, ZENDESK_USER_EMAIL, ZENDESK_API_TOKEN } = process.env;
const agent = new http.Agent({ keepAlive: true, maxSockets: 256, maxFreeSockets: 256 });
const login = Buffer.from(`${ZENDESK_USER_EMAIL}/token:${ZENDESK_API_TOKEN}`).toString('base64');
const createMany = new URL('/api/v2/tickets/create_many', ZENDESK_URL);

function ticket(item) {
  return {
    subject: `Case from Social Network ${item.entityId}`,
    comment: { body: item.text },
    external_id: item.link,
    priority: 'normal',
  };
}

function create(tickets, answered, failed) {
  const body = JSON.stringify({ tickets });
  const headers = {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(body),
    Authorization: `Basic ${login}`,
  };
  const request = http.request(createMany, { method: 'POST', agent, headers }, (response) => {
    response.resume();
    response.on('end', () => answered(response.statusCode));
  });
  request.on('error', failed);
  request.end(body);
}

const app = express();
app.disable('x-powered-by');
app.use(express.json({ limit: '1mb' }));
app.get('/', (request, response) => response.send('ready'));
app.post('/createTicket', (request, response) => {
  if (request.get('Authorization') !== `Bearer ${BEARER_TOKEN}`) return response.sendStatus(403);
  create(
    request.body.data.items.map(ticket),
    (status) => response.sendStatus(status),
    () => response.sendStatus(502),
  );
});
app.listen(Number(PORT), '127.0.0.1').keepAliveTimeout = 95_000;
