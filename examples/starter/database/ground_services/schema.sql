-- A ground-services firm at an airport: the airlines it serves, stands, flights handled, staff, vehicles and jobs.
CREATE TABLE airlines (
    airline_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    carrier_code TEXT NOT NULL,
    country TEXT NOT NULL,
    contract_from DATE NOT NULL,
    contract_to DATE,
    turnaround_fee REAL NOT NULL,
    deicing_fee REAL
);

CREATE TABLE stands (
    stand_id INTEGER PRIMARY KEY,
    code TEXT NOT NULL,
    terminal TEXT NOT NULL,
    kind TEXT NOT NULL,
    max_wingspan_m REAL NOT NULL,
    walking_metres INTEGER
);

CREATE TABLE flights (
    flight_id INTEGER PRIMARY KEY,
    airline_id INTEGER NOT NULL,
    stand_id INTEGER,
    flight_number TEXT NOT NULL,
    came_from TEXT NOT NULL,
    goes_to TEXT NOT NULL,
    service_date DATE NOT NULL,
    planned_minutes INTEGER NOT NULL,
    actual_minutes INTEGER,
    passengers_in INTEGER NOT NULL,
    passengers_out INTEGER NOT NULL,
    FOREIGN KEY (airline_id) REFERENCES airlines (airline_id),
    FOREIGN KEY (stand_id) REFERENCES stands (stand_id)
);

CREATE TABLE employees (
    employee_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    hired_on DATE NOT NULL,
    left_on DATE,
    regular_wage REAL NOT NULL,
    night_wage REAL NOT NULL,
    supervisor_id INTEGER,
    FOREIGN KEY (supervisor_id) REFERENCES employees (employee_id)
);

CREATE TABLE vehicles (
    vehicle_id INTEGER PRIMARY KEY,
    plate TEXT NOT NULL,
    kind TEXT NOT NULL,
    fuel TEXT NOT NULL,
    bought_on DATE NOT NULL,
    retired_on DATE,
    purchase_price REAL NOT NULL,
    resale_price REAL
);

CREATE TABLE jobs (
    job_id INTEGER PRIMARY KEY,
    flight_id INTEGER NOT NULL,
    employee_id INTEGER NOT NULL,
    vehicle_id INTEGER,
    task TEXT NOT NULL,
    shift TEXT NOT NULL,
    minutes INTEGER NOT NULL,
    complaint TEXT,
    FOREIGN KEY (flight_id) REFERENCES flights (flight_id),
    FOREIGN KEY (employee_id) REFERENCES employees (employee_id),
    FOREIGN KEY (vehicle_id) REFERENCES vehicles (vehicle_id)
);
