// The Node login client of the black-box suites: kafkajs with its AWS_MSK_IAM plug-in, the official MSK IAM token signer, and
// AWS SDK for JavaScript v3.
//
// In: one JSON object a line, {"verb": ..., ...}. Out: one JSON object a line, {"ok": true, ...} or {"ok": false, "error": ...}.
// Verbs: open (handle, bootstrap, ca, mechanism, login) logs in by asking for the cluster; describe, produce, consume and close use
// the handle; token asks the signer alone; sts calls the endpoint that AWS_ENDPOINT_URL_STS names.
//
// Must not: know anything of Schloss; everything but sts and token runs against Apache Kafka as well.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { randomUUID } from "node:crypto";
import kafkajs from "kafkajs";
import msk from "@jm18457/kafkajs-msk-iam-authentication-mechanism";
import signer from "aws-msk-iam-sasl-signer-js";
import * as sdk from "@aws-sdk/client-sts";

const { Kafka, logLevel } = kafkajs;
const handles = new Map();
const keyOf = (k) => ({ accessKeyId: k.access_key, secretAccessKey: k.secret_key, sessionToken: k.session_token ?? undefined });
const regionOf = (c) => c.login?.region ?? c.region ?? process.env.AWS_REGION ?? "eu-central-1";

async function signed(c) {
  return (await signer.generateAuthTokenFromCredentialsProvider({
    region: regionOf(c),
    awsCredentialsProvider: async () => keyOf(c.login),
  })).token;
}

function sasl(c) {
  const { login } = c;
  switch (c.mechanism) {
    case undefined:
    case null:
      return undefined;
    case "AWS_MSK_IAM":
      return msk.createMechanism({ region: regionOf(c), credentials: keyOf(login) });
    case "SCRAM-SHA-256":
    case "SCRAM-SHA-512":
      return { mechanism: c.mechanism.toLowerCase(), username: login.username, password: login.password };
    case "OAUTHBEARER":
      return { mechanism: "oauthbearer", oauthBearerProvider: async () => ({ value: login.token ?? (await signed(c)) }) };
  }
  throw new Error(`no mechanism ${c.mechanism}`);
}

async function open(c) {
  const ssl = { ca: [readFileSync(c.ca)] };
  if (c.certificate) Object.assign(ssl, { cert: readFileSync(c.certificate), key: readFileSync(c.privatekey) });
  const kafka = new Kafka({
    brokers: [c.bootstrap], ssl, sasl: sasl(c), logLevel: logLevel.NOTHING, connectionTimeout: 10000, authenticationTimeout: 15000,
    requestTimeout: 15000, retry: { retries: 0 }, reauthenticationThreshold: c.reauthentication_threshold ?? 10000,
  });
  const admin = kafka.admin();
  try {
    await admin.connect();
    const seen = await admin.describeCluster();
    handles.set(c.handle, { kafka, admin });
    return { cluster: seen.clusterId, nodes: seen.brokers.length };
  } catch (e) {
    await admin.disconnect().catch(() => {});
    throw e;
  }
}

async function consume(h, c) {
  const values = [];
  const consumer = h.kafka.consumer({ groupId: c.group ?? `login-${randomUUID()}`, maxWaitTimeInMs: 200 });
  await consumer.connect();
  try {
    await consumer.subscribe({ topic: c.topic, fromBeginning: true });
    await new Promise((done, failed) => {
      const timer = setTimeout(() => failed(new Error(`only ${values.length} records`)), 25000);
      consumer.on("consumer.crash", (e) => failed(e.payload.error));
      consumer.run({
        eachMessage: async ({ message }) => {
          values.push(message.value.toString());
          if (values.length === c.count) { clearTimeout(timer); done(); }
        },
      }).catch(failed);
    });
  } finally {
    await consumer.disconnect();
  }
  return { values };
}

async function produce(h, c) {
  if (!h.producer) {
    h.producer = h.kafka.producer();
    await h.producer.connect();
  }
  const [at] = await h.producer.send({ topic: c.topic, acks: -1, messages: [{ key: "k", value: c.value }] });
  return { partition: at.partition, offset: Number(at.baseOffset) };
}

const OPERATIONS = {
  AssumeRole: sdk.AssumeRoleCommand, AssumeRoleWithWebIdentity: sdk.AssumeRoleWithWebIdentityCommand,
  GetSessionToken: sdk.GetSessionTokenCommand, GetCallerIdentity: sdk.GetCallerIdentityCommand,
};

async function sts(c) {
  const client = new sdk.STSClient({
    region: regionOf(c), maxAttempts: 1,
    credentials: c.credentials ? keyOf(c.credentials) : async () => { throw new Error("no credentials"); },
  });
  try {
    const { $metadata, ...members } = await client.send(new OPERATIONS[c.operation](c.parameters ?? {}));
    return { ...members, request_id: $metadata.requestId };
  } finally {
    client.destroy();
  }
}

async function call(c) {
  const h = handles.get(c.handle);
  switch (c.verb) {
    case "open": return open(c);
    case "describe": return { cluster: (await h.admin.describeCluster()).clusterId };
    case "produce": return produce(h, c);
    case "consume": return consume(h, c);
    case "close":
      handles.delete(c.handle);
      if (h) await Promise.allSettled([h.admin.disconnect(), h.producer?.disconnect()]);
      return {};
    case "token": return { token: await signed(c) };
    case "sts": return sts(c);
  }
  throw new Error(`no verb ${c.verb}`);
}

process.on("unhandledRejection", () => {}); // kafkajs rejects a promise nobody holds when a connection is cut
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { ok: true, ...(await call(JSON.parse(line))) };
  } catch (e) {
    const causes = [];
    for (let at = e; at; at = at.cause) causes.push(`${at.name}: ${at.message}`);
    answer = { ok: false, error: e.$metadata ? e.message : causes.join(" <- "), code: e.$metadata ? (e.Code ?? e.name) : undefined, status: e.$metadata?.httpStatusCode };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
