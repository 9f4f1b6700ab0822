-- A museum of technology: what it shows, where, who gave it, what it repairs, and its guided tours.
CREATE TABLE donors (
    donor_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    city TEXT NOT NULL,
    first_gift_year INTEGER NOT NULL,
    last_gift_year INTEGER,
    email TEXT
);

CREATE TABLE rooms (
    room_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    floor INTEGER NOT NULL,
    theme TEXT NOT NULL,
    area_m2 REAL NOT NULL,
    opened_on DATE NOT NULL,
    closed_on DATE
);

CREATE TABLE objects (
    object_id INTEGER PRIMARY KEY,
    title TEXT NOT NULL,
    category TEXT NOT NULL,
    made_year INTEGER,
    acquired_on DATE NOT NULL,
    donor_id INTEGER,
    room_id INTEGER,
    purchase_price REAL,
    insured_value REAL NOT NULL,
    condition TEXT NOT NULL,
    FOREIGN KEY (donor_id) REFERENCES donors (donor_id),
    FOREIGN KEY (room_id) REFERENCES rooms (room_id)
);

CREATE TABLE restorations (
    restoration_id INTEGER PRIMARY KEY,
    object_id INTEGER NOT NULL,
    workshop TEXT NOT NULL,
    started_on DATE NOT NULL,
    finished_on DATE,
    estimated_cost REAL NOT NULL,
    actual_cost REAL,
    FOREIGN KEY (object_id) REFERENCES objects (object_id)
);

CREATE TABLE guides (
    guide_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    first_language TEXT NOT NULL,
    second_language TEXT,
    hired_on DATE NOT NULL,
    left_on DATE,
    hourly_wage REAL NOT NULL
);

CREATE TABLE tours (
    tour_id INTEGER PRIMARY KEY,
    title TEXT NOT NULL,
    language TEXT NOT NULL,
    start_room_id INTEGER NOT NULL,
    minutes INTEGER NOT NULL,
    adult_price REAL NOT NULL,
    child_price REAL,
    max_guests INTEGER NOT NULL,
    FOREIGN KEY (start_room_id) REFERENCES rooms (room_id)
);

CREATE TABLE tour_dates (
    tour_date_id INTEGER PRIMARY KEY,
    tour_id INTEGER NOT NULL,
    guide_id INTEGER,
    held_on DATE NOT NULL,
    booked_guests INTEGER NOT NULL,
    present_guests INTEGER,
    FOREIGN KEY (tour_id) REFERENCES tours (tour_id),
    FOREIGN KEY (guide_id) REFERENCES guides (guide_id)
);
