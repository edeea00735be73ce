/** A file of a public data set. */
export interface DatasetFile {
  readonly name: string;
  /** Where it is published. */
  readonly url: string;
  readonly sha256: string;
  readonly sizeBytes: number;
}

export interface DatasetEntry {
  readonly name: string;
  readonly title: string;
  readonly licence: string;
  readonly source: string;
  readonly files: readonly DatasetFile[];
}

/** Public data sets the examples and benchmarks can use. None of their data is in the project. */
export const DATASETS: readonly DatasetEntry[] = [
  {
    name: 'mnist',
    title: 'MNIST test set: 10,000 handwritten digits, 28×28',
    licence: 'CC BY-SA 3.0',
    source: 'Y. LeCun, C. Cortes, C. Burges',
    files: [
      {
        name: 't10k-images-idx3-ubyte.gz',
        url: 'https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz',
        sha256: '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
        sizeBytes: 1648877,
      },
      {
        name: 't10k-labels-idx1-ubyte.gz',
        url: 'https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz',
        sha256: 'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6',
        sizeBytes: 4542,
      },
    ],
  },
  {
    name: 'heart-disease',
    title: 'UCI Heart Disease, four hospitals',
    licence: 'CC BY 4.0',
    source: 'Janosi, Steinbrunn, Pfisterer, Detrano 1988, doi 10.24432/C52P4X',
    files: [
      {
        name: 'processed.cleveland.data',
        url: 'https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/processed.cleveland.data',
        sha256: '0ad84ed1809abe7206420c0c45d77153fb82b85bbb20a2de3d34c6be1696915c',
        sizeBytes: 18473,
      },
      {
        name: 'processed.hungarian.data',
        url: 'https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/processed.hungarian.data',
        sha256: 'b7e2781a582917c782f906d079efd9d8994fbbfaa8bd50cce0dbdfc529502551',
        sizeBytes: 11827,
      },
      {
        name: 'processed.switzerland.data',
        url: 'https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/processed.switzerland.data',
        sha256: '75fa4ed7943b891bc232fd36363c83a00d52c7cd3edaffae17ec99036d7021a5',
        sizeBytes: 4655,
      },
      {
        name: 'processed.va.data',
        url: 'https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/processed.va.data',
        sha256: '9a439dc875370c855c1b9c4f8f53f07a4356534f309648948d4f5d0425b5b0c4',
        sizeBytes: 8133,
      },
    ],
  },
  {
    name: 'thermal-comfort',
    title: 'ASHRAE Global Thermal Comfort Database II v2.1',
    licence: 'ODbL 1.0',
    source: 'Földváry Ličina et al. 2018, doi 10.6078/D1F671',
    files: [
      {
        name: 'db_measurements_v2.1.0.csv.gz',
        url: 'https://github.com/CenterForTheBuiltEnvironment/ashrae-db-II/raw/master/v2.1.0/db_measurements_v2.1.0.csv.gz',
        sha256: '9722be588ec3e779de21679513711e2d980138359a1b44bb9775e9499bc68380',
        sizeBytes: 3033632,
      },
      {
        name: 'db_metadata.csv',
        url: 'https://github.com/CenterForTheBuiltEnvironment/ashrae-db-II/raw/master/v2.1.0/db_metadata.csv',
        sha256: 'af6770a2b469f079cd172bd6632d1ae726a3a663515126816ff6d2d8f51bfc10',
        sizeBytes: 226093,
      },
    ],
  },
];
