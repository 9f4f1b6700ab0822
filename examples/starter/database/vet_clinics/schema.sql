-- A chain of veterinary clinics: its vets, the pets and their owners, visits and the medicines given at them.
CREATE TABLE clinic (
    clinic_id INTEGER PRIMARY KEY,
    clinic_name TEXT NOT NULL,
    town TEXT NOT NULL,
    region TEXT NOT NULL,
    opened_on DATE NOT NULL,
    exam_rooms INTEGER NOT NULL,
    surgery_rooms INTEGER NOT NULL
);

CREATE TABLE vet (
    vet_id INTEGER PRIMARY KEY,
    first_name TEXT NOT NULL,
    last_name TEXT NOT NULL,
    clinic_id INTEGER NOT NULL,
    specialty TEXT,
    hired_on DATE NOT NULL,
    left_on DATE,
    base_salary INTEGER NOT NULL,
    bonus INTEGER NOT NULL,
    FOREIGN KEY (clinic_id) REFERENCES clinic (clinic_id)
);

CREATE TABLE owner (
    owner_id INTEGER PRIMARY KEY,
    first_name TEXT NOT NULL,
    last_name TEXT NOT NULL,
    town TEXT NOT NULL,
    phone TEXT,
    registered_on DATE NOT NULL
);

CREATE TABLE pet (
    pet_id INTEGER PRIMARY KEY,
    pet_name TEXT NOT NULL,
    owner_id INTEGER NOT NULL,
    species TEXT NOT NULL,
    breed TEXT,
    birth_date DATE NOT NULL,
    current_weight_kg REAL NOT NULL,
    target_weight_kg REAL NOT NULL,
    chip_number TEXT,
    FOREIGN KEY (owner_id) REFERENCES owner (owner_id)
);

CREATE TABLE visit (
    visit_id INTEGER PRIMARY KEY,
    pet_id INTEGER NOT NULL,
    vet_id INTEGER NOT NULL,
    booked_on DATE NOT NULL,
    visited_on DATE NOT NULL,
    reason TEXT NOT NULL,
    fee_charged REAL NOT NULL,
    fee_paid REAL NOT NULL,
    paid_on DATE,
    FOREIGN KEY (pet_id) REFERENCES pet (pet_id),
    FOREIGN KEY (vet_id) REFERENCES vet (vet_id)
);

CREATE TABLE medicine (
    medicine_id INTEGER PRIMARY KEY,
    medicine_name TEXT NOT NULL,
    maker TEXT NOT NULL,
    kind TEXT NOT NULL,
    unit_cost REAL NOT NULL,
    unit_price REAL NOT NULL,
    units_in_stock INTEGER NOT NULL,
    reorder_level INTEGER NOT NULL,
    withdrawn_on DATE
);

CREATE TABLE prescription (
    visit_id INTEGER NOT NULL,
    medicine_id INTEGER NOT NULL,
    units INTEGER NOT NULL,
    days INTEGER NOT NULL,
    refills_allowed INTEGER NOT NULL,
    refills_used INTEGER NOT NULL,
    PRIMARY KEY (visit_id, medicine_id),
    FOREIGN KEY (visit_id) REFERENCES visit (visit_id),
    FOREIGN KEY (medicine_id) REFERENCES medicine (medicine_id)
);
