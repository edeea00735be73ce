import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { type CloudFrame, CloudFrameSchema, type EdgeFrame, EdgeFrameSchema } from '@shoal/api';
import type { Random } from '@shoal/core';
import type { Connection, EdgeTransport, LinkHub, Session } from './parts.ts';
import type { VirtualTime } from './virtual-time.ts';

/** How one node’s way to the cloud is now. */
export interface Weather {
  /** `cut`: nothing passes and both ends notice; `silent`: nothing passes and nobody notices. */
  state: 'good' | 'cut' | 'silent';
  delayMs: number;
  /** Frames that are lost, doubled or overtaken while the connection stays up. */
  loss: number;
  duplication: number;
  reordering: number;
  /** An edge or a cloud of the version before: frames carry no capabilities. */
  oldVersion: boolean;
}

/** Who looks at the frames on their way. */
export interface Watch {
  sentByEdge(wire: Wire, frame: EdgeFrame): void;
  sentByCloud(wire: Wire, frame: CloudFrame): void;
  deliveredToEdge(wire: Wire, frame: CloudFrame): void;
}

/** One connection, both ways. */
export interface Wire {
  readonly node: string;
  readonly id: number;
  /** Of a second device under the node’s name. */
  readonly isSecond: boolean;
  epoch: number;
  /** The feed this session is about. */
  storeId: string;
  isOpen: boolean;
}

/** Where connections of edges end: the manager that leads now. */
export interface CloudEnd {
  readonly hub: LinkHub;
  readonly alive: () => boolean;
  /** Runs what the manager does with a frame. False: it failed, and ends the session. */
  readonly attempt: (body: () => void) => boolean;
}

interface Lanes {
  up: number;
  down: number;
  isSwallowed: boolean;
  isClosing: boolean;
  /** Frames that wait for a way that is silent. */
  readonly held: { up: (() => void)[]; down: (() => void)[] };
}

interface Handle {
  readonly node: string;
  readonly cloud: CloudEnd;
  readonly cut: () => void;
  readonly carries: () => boolean;
  /** Nothing passes any more, and nobody is told. */
  readonly swallow: () => void;
}

/** Carries frames between edges and the cloud, badly. */
export class SimNetwork {
  readonly #time: VirtualTime;
  readonly #random: Random;
  readonly #watch: Watch;
  readonly #wires = new Set<Handle>();
  readonly #weather = new Map<string, Weather>();
  cloud: CloudEnd | undefined;
  #ids = 0;
  frames = 0;
  lost = 0;

  constructor(time: VirtualTime, random: Random, watch: Watch) {
    this.#time = time;
    this.#random = random;
    this.#watch = watch;
  }

  /** How the way of a node is now; to be changed in place. */
  weatherOf(node: string): Weather {
    const known = this.#weather.get(node);
    if (known) return known;
    const fresh: Weather = {
      state: 'good',
      delayMs: 20,
      loss: 0,
      duplication: 0,
      reordering: 0,
      oldVersion: false,
    };
    this.#weather.set(node, fresh);
    return fresh;
  }

  /** Ends all connections of a node; both ends notice. */
  cut(node: string): void {
    for (const wire of this.#wires) if (wire.node === node) wire.cut();
  }

  /** Whether the node’s own connection carries frames both ways now. */
  isHealthy(node: string): boolean {
    const weather = this.#weather.get(node);
    if (weather?.state !== 'good' || weather.delayMs > 300 || weather.loss > 0) return false;
    return [...this.#wires].some(
      (wire) => wire.node === node && wire.cloud === this.cloud && wire.carries(),
    );
  }

  /** Ends all connections to one manager. */
  cutFrom(cloud: CloudEnd): void {
    for (const wire of this.#wires) if (wire.cloud === cloud) wire.cut();
  }

  /** A box on the way forgets the connections of a node: what is sent goes nowhere. */
  swallow(node: string): void {
    for (const wire of this.#wires) if (wire.node === node) wire.swallow();
  }

  /** The way a process on a node reaches the cloud. `alive` is false once that process is dead. */
  transport(node: string, alive: () => boolean, isSecond = false): EdgeTransport {
    const unused = (): never => {
      throw new Error('not simulated');
    };
    return {
      connect: (onFrame: (frame: CloudFrame) => void) =>
        this.#connect(node, alive, onFrame, isSecond),
      getBlob: unused,
      putBlob: unused,
      statBlob: unused,
      putSamples: unused,
      close: () => undefined,
    } as unknown as EdgeTransport;
  }

  #connect(
    node: string,
    alive: () => boolean,
    onFrame: (frame: CloudFrame) => void,
    isSecond = false,
  ): Connection {
    const wire: Wire = { node, id: ++this.#ids, isSecond, epoch: 0, storeId: '', isOpen: true };
    const cloud = this.cloud;
    const weather = this.weatherOf(node);
    let end: (reason: string | undefined) => void = () => undefined;
    const closed = new Promise<string | undefined>((resolve) => {
      end = resolve;
    });
    if (!cloud?.alive() || weather.state === 'cut') {
      this.#time.after(weather.delayMs, () => end('unreachable'));
      return {
        send: () => undefined,
        closed,
        close: () => end('closed'),
        abandon: () => end('closed'),
      };
    }
    let session: Session | undefined;
    const lanes: Lanes = {
      up: 0,
      down: 0,
      isSwallowed: false,
      isClosing: false,
      held: { up: [], down: [] },
    };
    const finish = (reason: string, noticedByCloud: boolean): void => {
      if (!wire.isOpen) return;
      wire.isOpen = false;
      this.#wires.delete(handle);
      end(reason);
      const known = session;
      if (noticedByCloud && known && cloud.alive())
        this.#time.after(weather.delayMs, () => {
          if (cloud.alive()) cloud.attempt(() => cloud.hub.closed(known));
        });
    };
    const handle: Handle = {
      node,
      cloud,
      cut: () => finish('connection reset', true),
      carries: () =>
        wire.isOpen && !wire.isSecond && wire.epoch > 0 && !lanes.isSwallowed && !lanes.isClosing,
      swallow: () => {
        lanes.isSwallowed = true;
      },
    };
    this.#wires.add(handle);
    const up = (bytes: Uint8Array): void => {
      if (!wire.isOpen || !cloud.alive()) return;
      session ??= cloud.hub.open(
        { node },
        {
          send: (frame) => {
            const copy = this.#aged(frame, weather);
            if (copy.frame.case === 'welcome') {
              wire.epoch = Number(copy.frame.value.epoch);
              wire.storeId = copy.frame.value.storeId;
            }
            this.#watch.sentByCloud(wire, copy);
            const packed = toBinary(CloudFrameSchema, copy);
            this.#carry(weather, lanes, 'down', () => {
              if (!wire.isOpen || !alive()) return;
              const frameOut = fromBinary(CloudFrameSchema, packed);
              this.#watch.deliveredToEdge(wire, frameOut);
              onFrame(frameOut);
            });
          },
          close: () => {
            lanes.isClosing = true;
            this.#carry(weather, lanes, 'close', () => finish('the cloud closed', false));
          },
        },
      );
      const known = session;
      const frame = fromBinary(EdgeFrameSchema, bytes);
      if (!cloud.attempt(() => cloud.hub.receive(known, frame))) finish('session failed', true);
    };
    return {
      send: (frame) => {
        if (!wire.isOpen || !alive()) return;
        const copy = this.#agedUp(frame, weather);
        this.#watch.sentByEdge(wire, copy);
        const packed = toBinary(EdgeFrameSchema, copy);
        this.#carry(weather, lanes, 'up', () => up(packed));
      },
      closed,
      close: () => finish('closed', weather.state === 'good' && !lanes.isSwallowed),
      abandon: () => finish('closed', false),
    };
  }

  #aged(frame: CloudFrame, weather: Weather): CloudFrame {
    if (weather.oldVersion && frame.frame.case === 'welcome') {
      frame.frame.value.capabilities = [];
      frame.frame.value.positions = [];
    }
    return frame;
  }

  #agedUp(frame: EdgeFrame, weather: Weather): EdgeFrame {
    if (weather.oldVersion && frame.frame.case === 'hello') {
      frame.frame.value.capabilities = [];
      frame.frame.value.epoch = 0n;
    }
    return frame;
  }

  #release(weather: Weather, lanes: Lanes, lane: 'up' | 'down'): void {
    this.#time.after(200, () => {
      if (lanes.isSwallowed) return;
      if (weather.state === 'silent') return this.#release(weather, lanes, lane);
      for (const deliver of lanes.held[lane].splice(0)) deliver();
      lanes[lane] = this.#time.now;
    });
  }

  /** Frames of one direction keep their order, unless the weather says otherwise. */
  #carry(weather: Weather, lanes: Lanes, way: 'up' | 'down' | 'close', deliver: () => void): void {
    const isClose = way === 'close';
    const lane = isClose ? 'down' : way;
    this.frames++;
    if (lanes.isSwallowed) return;
    const held = lanes.held[lane];
    if (weather.state === 'silent' || held.length > 0) {
      // TCP sends again until it gets through, in order, or the ends give up.
      held.push(deliver);
      if (held.length === 1) this.#release(weather, lanes, lane);
      return;
    }
    // The version before relies on TCP, as it may.
    const isHostile = !isClose && !weather.oldVersion;
    if (isHostile && this.#random.next() < weather.loss) {
      this.lost++;
      return;
    }
    const delay = weather.delayMs * (0.5 + this.#random.next());
    const overtakes = isHostile && this.#random.next() < weather.reordering;
    const at = overtakes ? this.#time.now + delay : Math.max(lanes[lane], this.#time.now + delay);
    if (!overtakes) lanes[lane] = at;
    this.#time.after(at - this.#time.now, deliver);
    if (isHostile && this.#random.next() < weather.duplication)
      this.#time.after(at - this.#time.now + delay, deliver);
  }
}
