import { Duplex } from 'node:stream';

/** A byte stream with credit; `pass` is called once bytes have gone where they should. */
export interface ByteStream {
  /** Bytes that may be sent now. */
  readonly credit: number;
  send(bytes: Uint8Array): void;
  /** Ends the stream, with a reason when it did not end as it should. */
  end(error?: string): void;
  onData(listener: (bytes: Uint8Array, pass: () => void) => void): void;
  onDrain(listener: () => void): void;
  onEnd(listener: (error: string | undefined) => void): void;
}

/** A byte stream as Node.js wants one, good enough for its HTTP client to call it a connection. */
export function duplexOf(stream: ByteStream): Duplex {
  const passes: (() => void)[] = [];
  let drained: (() => void) | undefined;
  const duplex: Duplex = new Duplex({
    read: () => {
      for (const pass of passes.splice(0)) pass();
    },
    write: (chunk: Buffer, _encoding, done) => {
      stream.send(chunk);
      if (stream.credit > 0) done();
      else drained = done;
    },
    final: (done) => done(),
    destroy: (error, done) => {
      stream.end(error?.message);
      done(error);
    },
  });
  stream.onDrain(() => {
    const done = drained;
    drained = undefined; // the next write may come before this one returns
    done?.();
  });
  stream.onData((bytes, pass) => {
    if (duplex.push(bytes)) pass();
    else passes.push(pass);
  });
  stream.onEnd((error) => {
    const done = drained;
    drained = undefined;
    done?.(); // nobody reads what was still to be written
    if (error === undefined) duplex.push(null);
    else duplex.destroy(new Error(error));
  });
  const self = (): Duplex => duplex;
  return Object.assign(duplex, {
    setTimeout: self,
    setNoDelay: self,
    setKeepAlive: self,
    ref: self,
    unref: self,
  });
}
